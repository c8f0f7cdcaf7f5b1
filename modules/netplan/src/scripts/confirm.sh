# Makes the change `$1` durable, if it is the one that is pending and its addresses are up; then prints the status. Saying it
# twice is fine.
ondol_netplan_confirm() {
  PATH=/usr/sbin:/usr/bin:/sbin:/bin
  LC_ALL=C
  export PATH LC_ALL
  base=/run/ondol/netplan
  change=$base/change
  if [ "$(cat "$change/id" 2>/dev/null)" = "$1" ]; then
    # The client may be quicker than the guest; the guard's own deadline ends this wait too.
    while [ -d "$change" ]; do
      waiting=
      [ -e "$change/applied" ] || waiting=yes
      while [ -z "$waiting" ] && read -r address device; do
        ip -o address show dev "$device" 2>/dev/null |
          awk -v wanted="$address" '$4 == wanted && !/tentative|dadfailed/ { found = 1 } END { exit !found }' || waiting=yes
      done < "$change/addresses"
      if [ -z "$waiting" ]; then
        : > "$change/confirmed"
        break
      fi
      sleep 0.1
    done 2>/dev/null
    # Blocks until settle.sh is through. Not found means that it already is.
    systemctl stop ondol-netplan.service 2>/dev/null
  fi
  ondol_netplan_status
}
