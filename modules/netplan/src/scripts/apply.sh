# Main process of ondol-netplan.service: brings the candidate up, then waits. However it ends, systemd runs settle.sh.
# The candidate lives in /run, which shadows /etc/netplan and does not survive a reboot.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL
umask 077
base=/run/ondol/netplan
change=$base/change
exec 2> "$change/log"
# The answer to `begin` leaves the guest before the address it leaves from is gone.
sleep 0.3

# What settle.sh puts back where networkd does not: an address of ifupdown, or one given by hand.
while IFS= read -r device; do
  index=$(ip -o link show dev "$device" 2>/dev/null | sed "s/:.*//")
  [ -n "$index" ] || continue
  ip -o link show dev "$device" | awk -v index_="$index" -v device="$device" '{
    for (i = 1; i < NF; i++) { if ($i == "mtu") mtu = $(i + 1); if ($i == "link/ether") mac = $(i + 1) }
    print "link", index_, device, mtu, mac }'
  ip -o address show dev "$device" | awk -v index_="$index" '
    !/ dynamic / && !($3 == "inet6" && /scope link/) { print "address", index_, $4 }'
  for family in 4 6; do
    ip "-$family" route show dev "$device" | awk -v index_="$index" -v family="$family" '
      !/proto (kernel|dhcp|ra)/ { sub(/ linkdown/, ""); print "route", index_, family, $0 }'
  done
done < "$change/devices" > "$change/before"

set -e
mkdir -p /run/netplan "$change/aside"
: > "$change/installed"
while IFS= read -r path; do
  case "$path" in
    /run/netplan/*) mv "$path" "$change/aside/" ;;
  esac
done < "$change/replaces"
while IFS= read -r path; do
  printf 'network: {version: 2}\n' > "$path"
done < "$change/shadows"
cp "$change/candidate" /run/netplan/60-ondol.yaml

while read -r from to; do
  ip link set dev "$from" down
  ip link set dev "$from" name "$to"
  ip link set dev "$to" up
done < "$change/renames"
# `netplan apply` does no more than this for networkd, takes a Python start more, and fails where /sys is read-only (containers).
for generate in /usr/libexec/netplan/configure /usr/libexec/netplan/generate /lib/netplan/generate; do
  [ -x "$generate" ] && break
done
# As at boot: networkd, which is another user, must find its files in the directory that netplan makes; their own modes netplan sets.
(umask 022 && "$generate")
systemctl is-active --quiet systemd-networkd.service || systemctl start systemd-networkd.service
# The generator has written every file anew, so a reload alone configures its links again, also where only what runs had drifted.
# Asking for a reconfiguration on top makes networkd 252 configure a link twice at once, which loses addresses.
networkctl reload || {
  # networkd 252 has been seen to abort here, in its IPv4 address conflict detection; systemd starts it again.
  sleep 1
  systemctl start systemd-networkd.service
  networkctl reload
}
: > "$change/applied"
sleep 5
missing=
while read -r address device; do
  ip -o address show dev "$device" 2>/dev/null |
    awk -v wanted="$address" '$4 == wanted { found = 1 } END { exit !found }' || missing="$missing $device"
done < "$change/addresses"
# Once more, should it have missed something all the same.
for device in $missing; do
  networkctl reconfigure "$device" || true
done
exec sleep infinity
