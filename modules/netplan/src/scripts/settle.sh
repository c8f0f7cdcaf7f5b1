# Runs when ondol-netplan.service ends, whatever ended it: makes a confirmed change durable, takes any other back.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
base=/run/ondol/netplan
change=$base/change
kept=/var/lib/ondol/netplan/replaced

settled() {
  { echo "state $1"; echo "id $(cat "$change/id")"; [ -z "$2" ] || printf 'reason %s\n' "$2" | sed 's/  *$//'; } > "$base/status.new"
  # `change` goes first: a status that says "settled" must not be contradicted by leftovers.
  rm -rf "$change"
  mv "$base/status.new" "$base/status"
}

unshadow() {
  rm -f /run/netplan/60-ondol.yaml
  while IFS= read -r path; do rm -f "$path"; done < "$change/shadows"
}

commit() {
  mkdir -p /etc/netplan &&
    cp "$change/candidate" /etc/netplan/.60-ondol.yaml.new &&
    chmod 0600 /etc/netplan/.60-ondol.yaml.new &&
    chown 0:0 /etc/netplan/.60-ondol.yaml.new &&
    sync /etc/netplan/.60-ondol.yaml.new &&
    mv -f /etc/netplan/.60-ondol.yaml.new /etc/netplan/60-ondol.yaml &&
    sync /etc/netplan || return 1
  # Only now: were the power cut before, the guest would boot with both rather than with neither.
  while IFS= read -r path; do
    case "$path" in
      /etc/netplan/*) mkdir -p "$kept" && mv -f "$path" "$kept/" || return 1 ;;
    esac
  done < "$change/replaces"
  unshadow
}

device_of() {
  ip -o link | awk -F': ' -v wanted="$1" '$1 == wanted { sub(/@.*/, "", $2); print $2 }'
}

# Prints the saved addresses that are not there (yet).
missing_addresses() {
  while read -r kind index what _; do
    [ "$kind" = address ] || continue
    device=$(device_of "$index")
    [ -n "$device" ] || continue
    ip -o address show dev "$device" | awk -v wanted="$what" '$4 == wanted { found = 1 } END { exit !found }' ||
      echo "$what $device"
  done < "$change/before"
}

take_back() {
  unshadow
  for file in "$change/aside"/*.yaml; do
    [ -f "$file" ] && mv -f "$file" /run/netplan/
  done
  # On the way down there is no network to mend, and after a reboot nothing is left of the change.
  [ "$(systemctl is-system-running 2>/dev/null)" = stopping ] && return 0
  [ -e "$change/before" ] || return 0
  while read -r kind index name mtu mac; do
    [ "$kind" = link ] || continue
    device=$(device_of "$index")
    [ -n "$device" ] || continue
    if [ "$device" != "$name" ]; then
      ip link set dev "$device" down
      ip link set dev "$device" name "$name"
      ip link set dev "$name" up
    fi
    now=$(ip -o link show dev "$name")
    case "$now" in *" mtu $mtu "*) ;; *) ip link set dev "$name" mtu "$mtu" ;; esac
    case "$now" in *"$mac"*) ;; *) [ -n "$mac" ] && ip link set dev "$name" address "$mac" ;; esac
  done < "$change/before"
  for generate in /usr/libexec/netplan/configure /usr/libexec/netplan/generate /lib/netplan/generate; do
    [ -x "$generate" ] && (umask 022 && "$generate") && break
  done
  networkctl reload
  # networkd brings back what its files say. What nobody's file says comes back by hand.
  for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do
    [ -z "$(missing_addresses)" ] && break
    sleep 0.2
  done
  missing_addresses | while read -r what device; do
    ip link set dev "$device" up
    ip address add "$what" dev "$device"
  done
  while read -r kind index family route; do
    [ "$kind" = route ] || continue
    device=$(device_of "$index")
    [ -n "$device" ] && [ -z "$(ip "-$family" route show $route dev "$device" 2>/dev/null)" ] &&
      ip "-$family" route replace $route dev "$device"
  done < "$change/before"
  return 0
}

[ -e "$change/id" ] || exit 0
if [ -e "$change/confirmed" ]; then
  if words=$(commit 2>&1); then
    settled confirmed ''
    exit 0
  fi
  reason="could not be made durable: $(printf '%s' "$words" | tr '\n' ' ')"
elif [ -s "$change/abort" ]; then
  reason=$(tr '\n' ' ' < "$change/abort")
elif [ -n "${ONDOL_LOST-}" ]; then
  reason='its guard was killed'
elif [ "${SERVICE_RESULT-}" = timeout ]; then
  reason="not confirmed within $(cat "$change/after") s"
elif [ -e "$change/applied" ]; then
  reason="stopped before it was confirmed (${SERVICE_RESULT-unknown})"
else
  reason="could not be applied: $(tail -n 5 "$change/log" 2>/dev/null | tr '\n' ' ')"
fi
take_back 2>> "$base/rollback.log"
settled rolled-back "$reason"
