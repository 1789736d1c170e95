#!/usr/bin/env bash
# usage: node.sh DIR BIN N K NODES   the first process of the namespaces of node K of cluster N: it starts all others, takes
# up orphans, and all of it ends with it. DIR and BIN are /mnt and /mnt/bin here; what programs would write below /run,
# /tmp, /var/lib and /var/log of the machine stays below DIR. The first node, which cluster.sh starts, has the API server and
# all else that a cluster has once, and starts the others below itself. They share its /tmp, as storage on the network.
set -euo pipefail
n=$3 k=$4 nodes=$5
ip=198.18.$n.$((k + 1))
mkdir -p "$1/bin"
mount --bind "$2" "$1/bin"
mount --rbind "$1" /mnt
mount -t tmpfs tmpfs /run
[ "$k" != 1 ] || mount --bind /mnt/tmp /tmp
mount --bind /mnt/var/lib /var/lib
mount --bind /mnt/var/log /var/log
mount --make-rshared /
cd /mnt
export PATH=/mnt/bin:$PATH HOME=/mnt

hostname "node$k"
ip link set lo up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set eth0 up
if [ "$k" = 1 ]; then
	ip addr add "$ip/24" dev eth0
	ip route add default via "198.18.$n.1"
	sysctl -qw net.ipv4.conf.eth0.proxy_arp=1 # for the nodes behind this one
	# Where the cable of a node is gone its pods are looked for here, and not found: else they would be on the way out.
	[ "$nodes" = 1 ] || ip route add 10.244.0.0/16 dev eth0
else
	ip addr add "$ip/32" dev eth0
	ip route add default via "198.18.$n.2" dev eth0 onlink
fi
sysctl -qw net.ipv4.ip_forward=1
iptables -t nat -A POSTROUTING -s 10.244.0.0/16 ! -d 10.244.0.0/16 -j MASQUERADE
[ -e /proc/sys/net/bridge ] || modprobe br_netfilter || echo "the kernel has no br_netfilter: services are not reached from pods of the same node"
[ ! -e /proc/sys/net/bridge ] || sysctl -qw net.bridge.bridge-nf-call-iptables=1
groups=trellis-k$n
[ "$k" = 1 ] || groups=$groups/node$k
for at in /sys/fs/cgroup /sys/fs/cgroup/*; do
	if [ -e "$at/cgroup.procs" ]; then mkdir -p "$at/$groups"; fi
done
# A node is a machine of its own. Here all of its pods would together get as much of the processors as one program of the
# tests beside them: they get what eight do.
share() { if [ -e "$1" ]; then echo "$2" >"$1"; fi; }
share "/sys/fs/cgroup/cpu/${groups%%/*}/cpu.shares" 8192
share "/sys/fs/cgroup/${groups%%/*}/cpu.weight" 800

# start runs a program in a session of its own: kernels give each session as much as the next.
start() {
	setsid "$@" >"log/$1.log" 2>&1 </dev/null &
}

# wait_for SECONDS COMMAND...: until it succeeds.
wait_for() {
	local end=$((SECONDS + $1))
	shift
	until "$@" >/dev/null 2>&1; do
		if [ $SECONDS -ge $end ]; then
			echo "gave up waiting for: $*"
			exit 1
		fi
		sleep 0.1
	done
}

# An overlay below an overlay is refused by kernels: then files are copied.
mkdir -p tmp/{lower,upper,work,merged}
if mount -t overlay overlay -o lowerdir=tmp/lower,upperdir=tmp/upper,workdir=tmp/work tmp/merged 2>/dev/null; then
	umount tmp/merged
	snapshotter=overlayfs
else
	snapshotter=native
fi
sed -i "s/SNAPSHOTTER/$snapshotter/" containerd.toml

# once starts what a cluster has once, and is back when the API server answers.
once() {
	# A cluster that lasts as long as its machine needs no fsync.
	start etcd --data-dir etcd --unsafe-no-fsync --log-level warn \
		--listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 --listen-peer-urls http://127.0.0.1:2380
	local headers=(--requestheader-client-ca-file=pki/front-proxy-ca.crt --requestheader-allowed-names=front-proxy
		--requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group --requestheader-username-headers=X-Remote-User)
	# Who knows that it can go on elsewhere does not wait for five minutes whether a node comes back.
	local moved=()
	if [ "$nodes" -gt 1 ]; then
		moved=(--default-not-ready-toleration-seconds=10 --default-unreachable-toleration-seconds=10)
	fi
	start kube-apiserver "${moved[@]}" --advertise-address="$ip" --secure-port=6443 --etcd-servers=http://127.0.0.1:2379 \
		--service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
		--client-ca-file=pki/ca.crt --tls-cert-file=pki/apiserver.crt --tls-private-key-file=pki/apiserver.key \
		--kubelet-client-certificate=pki/apiserver-kubelet.crt --kubelet-client-key=pki/apiserver-kubelet.key \
		--kubelet-certificate-authority=pki/ca.crt --kubelet-preferred-address-types=InternalIP \
		--service-account-issuer=https://kubernetes.default.svc.cluster.local --service-account-key-file=pki/accounts.pub \
		--service-account-signing-key-file=pki/accounts.key "${headers[@]}" \
		--proxy-client-cert-file=pki/front-proxy.crt --proxy-client-key-file=pki/front-proxy.key --enable-aggregator-routing=true
	wait_for 240 kubectl get --raw /readyz
	local patience=()
	if [ "$nodes" -gt 1 ]; then
		patience=(--node-monitor-grace-period=20s) # else 50 s
	fi
	own() {
		echo "--kubeconfig=pki/$1.kubeconfig --authentication-kubeconfig=pki/$1.kubeconfig --authorization-kubeconfig=pki/$1.kubeconfig --bind-address=127.0.0.1"
	}
	# With the rates that are the default 2,000 pods take minutes to be made.
	local fast="--kube-api-qps=300 --kube-api-burst=600"
	# shellcheck disable=SC2046,SC2086
	start kube-controller-manager $(own controller-manager) $fast "${patience[@]}" --leader-elect=false --use-service-account-credentials=true \
		--cluster-cidr=10.244.0.0/16 --allocate-node-cidrs=true --service-cluster-ip-range=10.96.0.0/16 --enable-hostpath-provisioner=true \
		--cluster-signing-cert-file=pki/ca.crt --cluster-signing-key-file=pki/ca.key --root-ca-file=pki/ca.crt \
		--service-account-private-key-file=pki/accounts.key
	# Volumes are folders of the node that heed no fsGroup, as those of other clusters do: everybody may write there.
	while :; do
		chmod -f 0777 /tmp/hostpath_pv/* || true
		sleep 0.5
	done &
	# shellcheck disable=SC2046,SC2086
	start kube-scheduler $(own scheduler) $fast --leader-elect=false
	start coredns -conf Corefile
	# Its request timeout has to be below its resolution, or it ends at once.
	start metrics-server --kubeconfig=kubeconfig --authentication-kubeconfig=kubeconfig --authorization-kubeconfig=kubeconfig \
		--secure-port=10443 --bind-address="$ip" --cert-dir=tmp/metrics-server --kubelet-certificate-authority=pki/ca.crt \
		--kubelet-preferred-address-types=InternalIP --metric-resolution=10s --kubelet-request-timeout=5s "${headers[@]}"
}

# pods starts what runs pods.
pods() {
	wait_for 90 ctr version
	ctr -n k8s.io images import bin/pause.tar
	start kubelet --config=kubelet.yaml --kubeconfig=pki/kubelet.kubeconfig --hostname-override="node$k" --node-ip="$ip"
	start kube-proxy --config=proxy.yaml
}

start containerd --config containerd.toml
if [ "$k" = 1 ]; then
	export KUBECONFIG=/mnt/kubeconfig
	once
	for other in $(seq 2 "$nodes"); do ./boot.sh "$n" "$other" "$nodes"; done
	pods
	kubectl apply --server-side -f addons.yaml
	kubectl apply --server-side -f bin/gateway-api.yaml
	for each in $(seq "$nodes"); do wait_for 120 kubectl wait --for=condition=Ready "node/node$each" --timeout=1s; done
	wait_for 90 curl -sf http://127.0.0.1:8182/ready
	wait_for 90 kubectl get serviceaccount default
else
	pods
fi
touch up
while :; do
	sleep 3600 &
	wait $!
done
