#!/usr/bin/env bash
# usage: boot.sh N K NODES   starts node K of cluster N, from inside the first one: in namespaces below that, at the end of a
# cable of its own. One that was killed before starts anew, with what it has on its disk.
set -euo pipefail
n=$1 k=$2 nodes=$3
ip=198.18.$n.$((k + 1))
rm -f "/mnt/node$k/up"
ip link del "node$k" 2>/dev/null || true # what is killed is not gone at once
# A machine that starts has no control groups; for each one that a kubelet finds it asks for seconds what has become of it.
for groups in "/sys/fs/cgroup/trellis-k$n/node$k" /sys/fs/cgroup/*/"trellis-k$n/node$k"; do
	[ ! -e "$groups" ] || find "$groups" -depth -type d -exec rmdir {} + || true
done
setsid unshare --mount --net --pid --uts --ipc --fork --mount-proc --kill-child=KILL \
	/mnt/node.sh "/mnt/node$k" /mnt/bin "$n" "$k" "$nodes" >>"/mnt/node$k/node.log" 2>&1 </dev/null &
parent=$!
until pid=$(pgrep -P "$parent"); do
	kill -0 "$parent" 2>/dev/null || exit 1
	sleep 0.05
done
echo "$pid" >"/mnt/node$k/pid"
ip link add "node$k" type veth peer name eth0 netns "$pid"
ip link set "node$k" up
ip route add "$ip" dev "node$k"
ip route add "10.244.$((k - 1)).0/24" via "$ip" dev "node$k" onlink
