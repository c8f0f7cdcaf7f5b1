# Takes the pending change `$1` back now, for the reason `$2`; then prints the status.
ondol_netplan_abort() {
  PATH=/usr/sbin:/usr/bin:/sbin:/bin
  LC_ALL=C
  export PATH LC_ALL
  change=/run/ondol/netplan/change
  if [ "$(cat "$change/id" 2>/dev/null)" = "$1" ]; then
    printf '%s\n' "$2" > "$change/abort"
    systemctl stop ondol-netplan.service 2>/dev/null
  fi
  ondol_netplan_status
}
