#!/bin/bash
# A client of the storage in a drill, run in the drill's directory on a machine that has no part in the storage.
#   write rados|s3|nfs [SERVER]   numbered objects, one after the other, until it is stopped. What a client said was written is a line of
#                                 KIND.acknowledged: seconds since 1970, name, hash. The names are none that a drill which was killed has left.
#   judge                         reads every acknowledged object again; what is lost or differs is a line of output.
#   clean                         removes what was written.
set -uo pipefail
cd "${0%/*}" || exit

write() {
  local kind=$1 n=0 name began
  began=$(date +%s)
  while n=$((n + 1)); do
    name=drill-$kind-$began-$n
    head -c 3000 /dev/urandom >"$kind.in"
    case $kind in
      rados) rados -n client.site -p vms put "$name" "$kind.in" ;;
      s3) s3cmd -c s3cfg --no-progress put "$kind.in" "s3://site/$name" ;;
      nfs) nfs-cp "$kind.in" "nfs://$2/shared/$name?version=4" ;;
    esac >"$kind.log" 2>&1 &&
      echo "$(date +%s) $name $(sha256sum <"$kind.in" | cut -c -64)" >>"$kind.acknowledged"
    sleep 0.3
  done
}

mount() {
  mkdir -p mnt
  mountpoint -q mnt || ceph-fuse -n client.site --client_fs shared mnt >mount.log 2>&1
}

judge() {
  local name hash kind
  mkdir -p read-s3 read-rados
  s3cmd -c s3cfg --no-progress get --force --recursive s3://site/ read-s3/ >judge.log 2>&1
  mount
  for kind in rados s3 nfs; do
    while read -r _ name hash; do
      case $kind in
        rados) rados -n client.site -p vms get "$name" - ;;
        s3) cat "read-s3/$name" ;;
        nfs) cat "mnt/$name" ;;
      esac 2>>judge.log | sha256sum | grep -q "^$hash" || echo "$name"
    done <"$kind.acknowledged"
  done
  umount mnt
}

clean() {
  rados -n client.site -p vms ls | grep '^drill-' | xargs -r rados -n client.site -p vms rm
  s3cmd -c s3cfg --no-progress del --force --recursive s3://site/drill-
  mount && rm -f mnt/drill-* && umount mnt
}

"$@"
