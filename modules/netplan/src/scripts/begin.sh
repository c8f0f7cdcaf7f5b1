# Checks a change and starts its guard. Answers on standard output: `begun ID`, `refused WHY`, `failed WHY`, or `invalid`
# with netplan's own words below it. Nothing of the running network and nothing below /etc has changed then.
ondol_netplan_begin() {
  PATH=/usr/sbin:/usr/bin:/sbin:/bin
  LC_ALL=C
  export PATH LC_ALL
  umask 077
  base=/run/ondol/netplan
  change=$base/change
  # From netplan 1.2 on `generate` is for systemd alone, and `configure` has its former work and options.
  generate=
  for path in /usr/libexec/netplan/configure /usr/libexec/netplan/generate /lib/netplan/generate; do
    [ -x "$path" ] && generate=$path && break
  done
  [ -n "$generate" ] || { echo 'failed netplan.io is not installed on the guest'; return 0; }
  command -v systemd-run > /dev/null || { echo 'failed the guest has no systemd-run'; return 0; }
  mkdir -p "$base" || { echo "failed $base cannot be made"; return 0; }
  exec 9> "$base/lock"
  flock -w 5 9 || { echo 'refused another change is being begun'; return 0; }
  case "$(systemctl is-active ondol-netplan.service 2>/dev/null)" in
    active | activating | reloading | deactivating)
      ondol_netplan_status | sed -n -e 's/^status seconds_left /refused a change is not yet confirmed or taken back; seconds left: /p' -e 's/^status state settling/refused a change is being settled/p' | grep . || echo 'refused a change is under way'
      return 0
      ;;
  esac
  # The guard of an earlier change was killed: take that change back first.
  if [ -e "$change/installed" ]; then
    ONDOL_LOST=yes sh "$base/settle.sh" || { echo 'failed an abandoned change could not be taken back'; return 0; }
  fi
  rm -rf "$change" "$base/scratch"
  mkdir -p "$change" || { echo "failed $change cannot be made"; return 0; }
  ondol_netplan_payload "$change" "$base" || { echo "failed $change cannot be written"; return 0; }
  : > "$change/shadows"
  while IFS= read -r path; do
    case "$path" in
      /etc/netplan/*) echo "/run/netplan/${path##*/}" >> "$change/shadows" ;;
    esac
  done < "$change/replaces"

  # netplan reads the whole of its configuration in a tree of its own, where a mistake does no harm.
  scratch=$base/scratch
  for dir in lib/netplan etc/netplan run/netplan; do
    mkdir -p "$scratch/$dir"
    for file in "/$dir"/*.yaml; do
      [ -f "$file" ] && ! grep -qxF "$file" "$change/replaces" && cp "$file" "$scratch/$dir/"
    done
  done
  cp "$change/candidate" "$scratch/run/netplan/60-ondol.yaml"
  chmod -R go= "$scratch"
  if ! words=$("$generate" --root-dir "$scratch" 2>&1); then
    rm -rf "$scratch" "$change"
    echo invalid
    printf '%s\n' "$words" | sed "s#$scratch##g"
    return 0
  fi
  rm -rf "$scratch"

  read -r now _ < /proc/uptime
  echo "$((${now%%.*} + $(cat "$change/after")))" > "$change/deadline"
  { echo 'state pending'; echo "id $(cat "$change/id")"; } > "$base/status.new"
  mv "$base/status.new" "$base/status"
  if ! words=$(systemd-run --quiet --collect --unit=ondol-netplan.service \
    --description='Ondol: a network change that is not confirmed yet' \
    --property=Type=exec \
    --property="RuntimeMaxSec=$(cat "$change/after")" \
    --property=TimeoutStopSec=90 \
    --property="ExecStopPost=/bin/sh $base/settle.sh" \
    /bin/sh "$base/apply.sh" 2>&1); then
    rm -rf "$change" "$base/status"
    printf 'failed systemd-run: %s\n' "$(printf '%s' "$words" | tr '\n' ' ')"
    return 0
  fi
  echo "begun $(cat "$change/id")"
}
ondol_netplan_begin < /dev/null
