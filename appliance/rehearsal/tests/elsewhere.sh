#!/bin/sh
# A box elsewhere, without a machine: elsewhere.sh FOLDER STATE POSTKEEPD COMMAND...
# Runs in network and mount namespaces of its own. The box gets others, with its addresses on one end of a cable and
# its /var/lib/postkeep in STATE; the command runs here, at the other end. No packet can leave either.
set -eu
folder=$1 state=$2 postkeepd=$3
shift 3
export folder state postkeepd
ip link set lo up
unshare --net --mount --propagation private sh -euc '
    ip link set lo up
    until ip link show box >/dev/null 2>&1; do sleep 0.05; done
    ip address add 10.1.0.1/32 dev box
    ip address add 10.1.0.2/32 dev box
    ip link set box up
    ip route add 10.0.0.1/32 dev box
    ip route add 10.2.0.0/16 dev box
    # Nothing is made on the disk of whoever runs this.
    mount -t tmpfs lib /var/lib
    mkdir /var/lib/postkeep
    mount --bind "$state" /var/lib/postkeep
    # The control socket is there; nobody else sees it.
    mount -t tmpfs -o mode=0755 run /run
    mkdir -p /run/postkeep /var/lib/postkeep/etc/rehearsal
    cp "$folder"/box/* /var/lib/postkeep/etc/rehearsal/
    exec "$postkeepd" --config /var/lib/postkeep/etc/rehearsal/postkeep.toml
' >"$state.log" 2>&1 &
box=$!
trap 'kill $box' EXIT
# It has left our network when its own is another one.
until [ "$(readlink /proc/$box/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.05; done
ip link add here type veth peer name box netns $box
ip link set here up
ip route add local 10.0.0.1/32 dev lo
ip route add local 10.2.0.0/16 dev lo
ip route add 10.1.0.0/16 dev here src 10.0.0.1
"$@"
