# Prints how the last change stands, one `status KEY VALUE` a line.
ondol_netplan_status() {
  base=/run/ondol/netplan
  if [ ! -r "$base/status" ]; then
    echo 'status state none'
    return 0
  fi
  state=$(sed -n 's/^state //p' "$base/status")
  case "$state" in
    pending)
      case "$(systemctl is-active ondol-netplan.service 2>/dev/null)" in
        active | activating | reloading) ;;
        deactivating) state=settling ;;
        *)
          # It may have settled between the two looks.
          state=$(sed -n 's/^state //p' "$base/status")
          [ "$state" = pending ] && state=abandoned
          ;;
      esac
      ;;
  esac
  echo "status state $state"
  sed -n -e 's/^id /status id /p' -e 's/^reason /status reason /p' "$base/status"
  if [ "$state" = pending ]; then
    [ -e "$base/change/applied" ] && echo 'status applied yes'
    read -r now _ < /proc/uptime
    read -r deadline < "$base/change/deadline" && echo "status seconds_left $((deadline - ${now%%.*}))"
  fi
  return 0
}
