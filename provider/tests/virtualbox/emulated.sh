#!/bin/bash
# A test double: the real VBoxManage, with QEMU's emulation in the place of VirtualBox's kernel driver. VMs, disks, seeds, exports are
# VirtualBox's own; a VM that is started runs from its own disks in a QEMU of this machine (its root is at /machine), and what VBoxManage
# then says of its state is put right. It knows what the test of running guests needs, and refuses the rest.
set -eu
real=/usr/lib/virtualbox/VBoxManage
running=/run/emulated

fail() {
  echo "VBoxManage: error: $1" >&2
  exit 1
}

# Of a VM that is on, the directory with its QEMU's process ID.
process() {
  [ -s "$running/$1/pid" ] && kill -0 "$(cat "$running/$1/pid")" 2>/dev/null
}

setting() {
  sed -n "s/^\"\\{0,1\\}$1\"\\{0,1\\}=\"\\{0,1\\}\\([^\"]*\\)\"\\{0,1\\}\$/\\1/p" <<<"$info"
}

about() {
  info=$("$real" showvminfo "$1" --machinereadable 2>/dev/null) || exec "$real" showvminfo "$1" --machinereadable
  vm=$(setting UUID)
}

start() {
  [ "$(setting firmware)" = BIOS ] || fail 'only a BIOS is emulated'
  local at=/machine directory=$running/$vm words medium port number mac
  words=(-name "$(setting name)" -nodefaults -display none -machine pc -accel tcg -m "$(setting memory)" -smp "$(setting cpus)")
  words+=(-device VGA -serial "file:$root$directory/serial" -monitor "pipe:$root$directory/monitor")
  # The places on the bus are VirtualBox's; without slots that could be unplugged, Linux names adapters after them, as it does there.
  words+=(-global PIIX4_PM.acpi-root-pci-hotplug=off -device ahci,id=sata,addr=0xd)
  for port in 0 1 2 3 4 5; do
    medium=$(setting "SATA-$port-0")
    case $medium in
      '' | none) ;;
      *.iso)
        words+=(-drive "if=none,id=medium$port,media=cdrom,readonly=on,format=raw,file=$root$medium")
        words+=(-device "ide-cd,bus=sata.$port,drive=medium$port")
        ;;
      *)
        words+=(-drive "if=none,id=medium$port,format=vdi,file=$root$medium")
        words+=(-device "ide-hd,bus=sata.$port,drive=medium$port")
        ;;
    esac
  done
  for number in 1 2 3; do
    case $(setting "nic$number") in
      none) ;;
      bridged)
        mac=$(setting "macaddress$number")
        chroot $at ip tuntap add "t$mac" mode tap 2>/dev/null || true
        chroot $at ip link set "t$mac" master "$(setting "bridgeadapter$number")" up
        words+=(-netdev "tap,id=net$number,ifname=t$mac,script=no,downscript=no")
        words+=(-device "e1000,netdev=net$number,addr=$((number == 1 ? 3 : number + 6)),mac=$(sed 's/../&:/g; s/:$//' <<<"$mac")")
        ;;
      *) fail 'only bridged adapters are emulated' ;;
    esac
  done
  mkdir -p "$directory"
  rm -f "$directory"/*
  mkfifo "$directory/monitor.in" "$directory/monitor.out"
  chroot $at qemu-system-x86_64 "${words[@]}" -daemonize -pidfile "$root$directory/pid" >"$directory/qemu" 2>&1 ||
    fail "QEMU: $(cat "$directory/qemu")"
}

echo "$*" >>/root/runs

echo "$*" >>/root/runs

# Where this host's root is in /machine.
root=$(cat /root/root)

case "${1-} ${2-} ${3-}" in
  'list --long vms')
    on=
    for directory in "$running"/*; do
      ! process "${directory##*/}" || on="$on ${directory##*/}"
    done
    "$real" "$@" | awk -v on="$on" '
      /^UUID:/ { runs = index(on, $2) }
      /^State:/ && runs { $0 = "State:                       running (since 2026-01-01T00:00:00.000000000)" }
      { print }'
    ;;
  'showvminfo '*)
    about "$2"
    if process "$vm"; then
      "$real" "$@" | sed 's/^VMState="poweroff"$/VMState="running"/'
    else
      exec "$real" "$@"
    fi
    ;;
  'startvm '*)
    about "$2"
    ! process "$vm" || fail "The machine '$2' is already locked by a session (or being locked or unlocked)"
    start
    ;;
  'controlvm '*)
    about "$2"
    process "$vm" || fail "Machine '$2' is not currently running."
    case $3 in
      acpipowerbutton) echo system_powerdown >"$running/$vm/monitor.in" ;;
      poweroff) kill "$(cat "$running/$vm/pid")" ;;
      *) fail "controlvm $3 is not emulated" ;;
    esac
    ;;
  'modifyvm '* | 'storageattach '* | 'unregistervm '* | 'export '* | 'snapshot '* | 'clonevm '*)
    about "$2"
    ! process "$vm" || fail "The machine '$2' is already locked for a session (or being unlocked)"
    exec "$real" "$@"
    ;;
  *) exec "$real" "$@" ;;
esac
