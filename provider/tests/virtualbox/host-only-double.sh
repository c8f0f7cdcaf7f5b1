#!/bin/sh
# A double of VBoxManage for host-only adapters and their DHCP servers, which need VirtualBox's kernel driver. It keeps them as files
# and prints them as VirtualBox does; everything else is the real one's.
echo "$*" >>/root/runs
state=/root/double
mkdir -p $state
argument() { for word; do case $word in "$name="*) echo "${word#*=}" ;; esac; done; }
case "$1 $2" in
"hostonlyif create")
  number=0
  while [ -e $state/vboxnet$number ]; do number=$((number + 1)); done
  echo "192.168.$((56 + number)).1 255.255.255.0" >$state/vboxnet$number
  printf "0%%...100%%\nInterface 'vboxnet%s' was successfully created\n" $number
  ;;
"hostonlyif ipconfig") echo "$5 $7" >"$state/$3" ;;
"hostonlyif remove") rm "$state/$3" ;;
"list hostonlyifs")
  for file in $state/vboxnet*; do
    [ -e "$file" ] || continue
    read -r address mask <"$file"
    printf 'Name:            %s\nIPAddress:       %s\nNetworkMask:     %s\nStatus:          Down\nVBoxNetworkName: HostInterfaceNetworking-%s\n\n' \
      "${file##*/}" "$address" "$mask" "${file##*/}"
  done
  ;;
"dhcpserver add" | "dhcpserver modify")
  name=--interface adapter=$(argument "$@")
  {
    printf 'NetworkName:    HostInterfaceNetworking-%s\n' "$adapter"
    name=--server-ip; printf 'Dhcpd IP:       %s\n' "$(argument "$@")"
    name=--lower-ip; printf 'LowerIPAddress: %s\n' "$(argument "$@")"
    name=--upper-ip; printf 'UpperIPAddress: %s\n' "$(argument "$@")"
    name=--netmask; printf 'NetworkMask:    %s\nEnabled:        Yes\n\n' "$(argument "$@")"
  } >"$state/dhcp-$adapter"
  ;;
"dhcpserver remove")
  name=--interface
  rm "$state/dhcp-$(argument "$@")"
  ;;
"list dhcpservers") cat $state/dhcp-* 2>/dev/null || true ;;
*) exec /usr/lib/virtualbox/VBoxManage "$@" ;;
esac
