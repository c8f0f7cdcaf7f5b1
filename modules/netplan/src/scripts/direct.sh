# Acts that cannot cut the guest off.
PATH=/usr/sbin:/usr/bin:/sbin:/bin
LC_ALL=C
export PATH LC_ALL

# $1: name. Also for a system without D-Bus, where hostnamectl does not work.
ondol_hostname() {
  old=$(sed -e 's/#.*//' -e 's/[[:space:]]//g' -e '/^$/d' /etc/hostname 2> /dev/null | head -n 1)
  printf '%s\n' "$1" > /etc/.hostname.new
  chmod 0644 /etc/.hostname.new
  mv -f /etc/.hostname.new /etc/hostname
  hostname "$1"
  # sudo resolves the machine's own name first and waits for name servers that may not be up yet. Only Debian's own line for
  # this purpose is touched; a name that is in the file already stays where it is.
  if ! awk -v name="$1" '{ sub(/#.*/, ""); for (i = 2; i <= NF; i++) if ($i == name) found = 1 } END { exit !found }' /etc/hosts 2> /dev/null; then
    short=${1%%.*}
    names=$1
    [ "$short" = "$1" ] || names="$1 $short"
    # Written in place of renamed over: in a container /etc/hosts may be a mount of its own.
    kept=$(awk -v old="$old" '!($1 == "127.0.1.1" && $2 == old)' /etc/hosts 2> /dev/null || true)
    { [ -z "$kept" ] || printf '%s\n' "$kept"; printf '127.0.1.1 %s\n' "$names"; } > /etc/hosts
  fi
}

# $1: name of a file that was moved aside. One that has come back by itself is the newer.
ondol_restore() {
  if [ -e "/etc/netplan/$1" ]; then
    rm -f "/var/lib/ondol/netplan/replaced/$1"
  else
    mv "/var/lib/ondol/netplan/replaced/$1" "/etc/netplan/$1"
  fi
}

ondol_remove() {
  if systemctl is-active --quiet ondol-netplan.service; then
    echo 'a change is not yet confirmed or taken back; try again when it is' >&2
    return 1
  fi
  rm -f /etc/netplan/60-ondol.yaml
  sync /etc/netplan
}
