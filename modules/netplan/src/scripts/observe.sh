ondol_netplan_observe() {
  PATH=/usr/sbin:/usr/bin:/sbin:/bin
  LC_ALL=C
  export PATH LC_ALL
  echo 'ondol-netplan-observation 1'
  if ! command -v ip > /dev/null; then
    echo 'error iproute2 is not installed'
    return 0
  fi
  echo "hostname-running $(uname -n)"
  echo "hostname-static $(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' /etc/hostname 2>/dev/null | head -n 1)"
  for file in /lib/netplan/*.yaml /etc/netplan/*.yaml /run/netplan/*.yaml; do
    [ -f "$file" ] || continue
    # The candidate of a change that is under way is part of its status.
    [ "$file" = /run/netplan/60-ondol.yaml ] && continue
    grep -qsxF "$file" /run/ondol/netplan/change/shadows && continue
    text=$(base64 -w0 < "$file") || { echo "error $file cannot be read"; return 0; }
    echo "file $(stat -L -c '%a %u %g' "$file") ${text:--} $file"
  done
  for file in /var/lib/ondol/netplan/replaced/*.yaml; do
    [ -f "$file" ] && echo "replaced ${file##*/}"
  done
  # Not echo: that of dash reads backslashes, which JSON may hold.
  printf 'links %s\n' "$(ip -j address show)"
  # Where a family has no route at all (or IPv6 is off), ip prints nothing.
  routes=$(ip -4 -j route show table main 2>/dev/null)
  printf 'routes4 %s\n' "${routes:-[]}"
  routes=$(ip -6 -j route show table main 2>/dev/null)
  printf 'routes6 %s\n' "${routes:-[]}"
  for file in /run/systemd/netif/links/*; do
    [ -f "$file" ] && echo "networkd ${file##*/} $(base64 -w0 < "$file")"
  done
  ondol_netplan_status
  echo end
}
ondol_netplan_observe < /dev/null
