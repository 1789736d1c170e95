#!/usr/bin/env bash
# usage: cluster.sh up              starts a Kubernetes of one node and says how to use it; one that runs is kept
#        cluster.sh down            ends it; nothing of it is left but the programs in the cache
#        cluster.sh run COMMAND...  runs a command with KUBECONFIG set: on the cluster that runs, or on one of its own
#        cluster.sh load IMAGE...   gives every node images: archives, or images of the Docker Engine here
#        cluster.sh nodes N         adds N nodes that do not exist (kwok), tainted kwok.x-k8s.io/node=fake
#        cluster.sh enter [CMD...]  a shell, or a command, inside the node (the first one)
#        cluster.sh cut|join K      node K neither hears anybody nor is heard any more, while all of it goes on; and is again
#        cluster.sh kill|boot K     all of node K is gone in a moment, its network first; it starts again with its disk
#        cluster.sh build           builds the programs into the cache, as up does where they are not there
# The whole cluster lives in namespaces of its own, below one process; this machine reaches it over one veth pair. It
# needs root, and the packages of `scripts/setup.sh cluster`. CLUSTER names a second one of the same checkout. With NODES=2
# in the environment it starts with two real nodes, or more: one that is lost is then noticed after 20 s, and its pods are
# replaced after another 10 s. Where no cluster can be started here, up and run end with 3, and with 1 where none can be built.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
tools=$here/../../tools/cluster
export PATH="$PATH:/usr/sbin:/sbin"

cache=${XDG_CACHE_HOME:-$HOME/.cache}/trellis/cluster
# What is built depends on the modules, on the sources of ours beside them, and on Go.
key=$(cd "$tools" && { cat go.mod go.sum ./*/*.go && go env GOVERSION GOARCH; } | sha256sum | cut -c1-16)
bin=$cache/$key
run=$cache/run-$(printf '%s %s' "$here" "${CLUSTER-}" | cksum | cut -d' ' -f1)

die() {
	echo "$*" >&2
	exit 1
}

# locked: one command at a time looks at the cluster of this checkout and changes it.
locked() {
	mkdir -p "$cache"
	exec 9>"$run.lock"
	flock 9
}

# build makes the programs, and takes out of the modules what is given to the cluster.
build() {
	mkdir -p "$cache"
	exec 8>"$cache/build.lock"
	flock 8
	if [ ! -e "$bin/kubelet" ]; then
		echo "building Kubernetes into $bin, once for these versions: five minutes, twenty on a small machine" >&2
		local half=$bin.half p=k8s.io/component-base/version version flags
		rm -rf "$half"
		mkdir -p "$half"
		(
			cd "$tools"
			export CGO_ENABLED=0
			version=$(go list -m -f '{{.Version}}' k8s.io/kubernetes)
			# Without these the server calls itself v0.0.0-master, and clients that compare versions refuse it.
			flags="-s -w -X $p.gitVersion=$version -X $p.gitMajor=1 -X $p.gitMinor=$(echo "$version" | cut -d. -f2)"
			go build -trimpath -buildvcs=false -ldflags "$flags" -o "$half/" \
				k8s.io/kubernetes/cmd/{kube-apiserver,kube-controller-manager,kube-scheduler,kubelet,kube-proxy,kubectl} \
				sigs.k8s.io/kwok/cmd/kwok sigs.k8s.io/metrics-server/cmd/metrics-server ./coredns ./pause ./mkimage
			go build -trimpath -buildvcs=false -ldflags '-s -w' -o "$half/etcd" go.etcd.io/etcd/server/v3
			documents "$(go list -m -f '{{.Dir}}' sigs.k8s.io/gateway-api)"/config/crd/standard/*.yaml >"$half/gateway-api.yaml"
			cd "$(go list -m -f '{{.Dir}}' sigs.k8s.io/kwok)/kustomize/stage"
			documents {node/fast/node-initialize,node/heartbeat-with-lease/node-heartbeat-with-lease,pod/fast/pod-ready,pod/fast/pod-complete,pod/fast/pod-delete}.yaml >"$half/kwok-stages.yaml"
		)
		"$half/mkimage" docker.io/local/pause:1 "$half/pause.tar" "$half/pause"
		mv "$half" "$bin"
	fi
	touch "$bin"
	# Programs of other versions go when nobody has used them for a month.
	find "$cache" -mindepth 1 -maxdepth 1 -type d -name '????????????????' -mtime +30 -exec rm -rf {} +
	exec 8>&-
}

# documents writes files of YAML one after the other.
documents() {
	for f in "$@"; do
		echo ---
		cat "$f"
	done
}

# first is the process that everything of the cluster is below; nothing where it does not run.
first() {
	local pid
	pid=$(cat "$run/pid" 2>/dev/null) || return 1
	grep -qz "$here/node.sh" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

# groups_of N are the control groups of cluster N, one in each hierarchy.
groups_of() {
	find /sys/fs/cgroup -maxdepth 2 -type d -name "trellis-k$1" 2>/dev/null
}

inside() {
	local pid
	pid=$(first) || die "no cluster runs here: $0 up"
	nsenter -t "$pid" -m -n -p -u -i --wd=/ env KUBECONFIG=/mnt/kubeconfig PATH="/mnt/bin:$PATH" "$@"
}

# on K COMMAND...: inside of node K.
on() {
	local k=$1
	shift
	if [ "$k" = 1 ]; then
		inside "$@"
	else
		# shellcheck disable=SC2016
		inside sh -c 'k=$1; shift; exec nsenter -t "$(cat "/mnt/node$k/pid")" -m -n -p -u -i --wd=/ "$@"' sh "$k" "$@"
	fi
}

# count is how many real nodes the cluster has.
count() { cat "$run/nodes"; }

# other K fails unless K is one of the nodes without which the cluster goes on.
other() {
	case ${1-} in
	'' | *[!0-9]*) die "which node is meant? Say its number" ;;
	esac
	first >/dev/null || die "no cluster runs here: $0 up"
	[ "$1" -ge 2 ] && [ "$1" -le "$(count)" ] || die "node $1 is none that can be missed: there are $(count), and the first one has the API server"
}

# cut_node and join_node change what the node's own kernel passes on: at its neighbours the cable stays as it is, as it does where a
# switch is in between.
cut_node() {
	other "${1-}"
	on "$1" iptables -t raw -I PREROUTING -i eth0 -j DROP
	on "$1" iptables -t mangle -I POSTROUTING -o eth0 -j DROP
}

join_node() {
	other "${1-}"
	on "$1" iptables -t mangle -D POSTROUTING -o eth0 -j DROP
	on "$1" iptables -t raw -D PREROUTING -i eth0 -j DROP
}

kill_node() {
	cut_node "$1" # nobody hears that it ends
	# shellcheck disable=SC2016
	inside sh -c 'kill -KILL "$(cat "/mnt/node$1/pid")" && rm "/mnt/node$1/pid"' sh "$1"
}

boot_node() {
	other "${1-}"
	[ ! -e "$run/node$1/pid" ] || die "node $1 runs"
	inside sh -c 'cd /mnt && exec ./boot.sh "$@"' sh "$(cat "$run/number")" "$1" "$(count)" 9>&-
	for _ in $(seq 600); do
		if [ -e "$run/node$1/up" ]; then return; fi
		sleep 0.1
	done
	die "node $1 does not start: see $run/node$1/node.log"
}

up() {
	local nodes=${NODES:-1}
	if first >/dev/null; then
		[ -z "${NODES-}" ] || [ "$nodes" = "$(count)" ] || die "the cluster that runs has $(count) nodes and not $nodes: end it with '$0 down'"
		return
	fi
	[[ $nodes =~ ^[1-9]$ ]] || die "NODES is $nodes: one to nine real nodes can be had"
	if [ "$(id -u)" != 0 ]; then
		echo "a cluster needs root: namespaces, mounts and control groups are made for it" >&2
		exit 3
	fi
	"$here/../../scripts/setup.sh" cluster
	end
	"$here/cluster.sh" build || die "Kubernetes cannot be built, see above; tests go without with ENGINES=local"
	local n=0
	while ip link show "trellis-k$n" >/dev/null 2>&1 || [ -n "$(groups_of "$n")" ]; do n=$((n + 1)); done
	[ "$n" -lt 256 ] || die "no address is left between 198.18.0.0 and 198.18.255.0"
	mkdir -p "$run"
	echo "$n" >"$run/number"
	echo "$nodes" >"$run/nodes"
	cp "$here/node.sh" "$here/boot.sh" "$run"
	"$here/config.sh" "$run" "$n" "$nodes"
	setsid unshare --mount --net --pid --uts --ipc --fork --mount-proc --kill-child=KILL \
		"$here/node.sh" "$run" "$bin" "$n" 1 "$nodes" >"$run/node.log" 2>&1 9>&- </dev/null &
	local parent=$! pid=
	until pid=$(pgrep -P "$parent"); do
		kill -0 "$parent" 2>/dev/null || failed "the namespaces cannot be made"
		sleep 0.05
	done
	echo "$pid" >"$run/pid"
	ip link add "trellis-k$n" type veth peer name eth0 netns "$pid"
	ip addr add "198.18.$n.1/24" dev "trellis-k$n"
	ip link set "trellis-k$n" up
	for _ in $(seq 4800); do
		if [ -e "$run/up" ]; then return; fi
		first >/dev/null || break
		sleep 0.1
	done
	failed "the node did not become ready"
}

failed() {
	echo "$1; the last lines of its logs in $run:" >&2
	tail -n 5 "$run"/{,node?/}{node.log,log/*.log} >&2 2>/dev/null || true
	cp -r "$run/log" "$run.failed" 2>/dev/null || true
	end
	exit 3
}

# end kills the one process, and with it goes all else: processes, mounts, interfaces. Control groups and files do not.
end() {
	local pid n
	if pid=$(first); then
		kill -KILL "$pid"
		while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done
	fi
	n=$(cat "$run/number" 2>/dev/null) || return 0
	for _ in $(seq 100); do
		for group in $(groups_of "$n"); do find "$group" -depth -type d -exec rmdir {} + 2>/dev/null || true; done
		if [ -z "$(groups_of "$n")" ] && ! ip link show "trellis-k$n" >/dev/null 2>&1; then break; fi
		sleep 0.1
	done
	rm -rf "$run"
}

load() {
	local image archive k
	for image in "$@"; do
		archive=$image
		if [ ! -f "$image" ]; then
			archive=$run/image.tar
			docker save -o "$archive" "$image" || die "$image is neither a file nor an image of the Docker Engine here"
		fi
		for k in $(seq "$(count)"); do
			on "$k" ctr -n k8s.io images import - <"$archive" >/dev/null
		done
	done
	rm -f "$run/image.tar"
}

nodes() {
	local i have
	inside pgrep -x kwok >/dev/null || inside setsid sh -c '
		nohup /mnt/bin/kwok --config=/mnt/bin/kwok-stages.yaml --kubeconfig=/mnt/kubeconfig --manage-all-nodes=false \
			--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake --cidr=10.250.0.0/16 \
			--node-lease-duration-seconds=40 >/mnt/log/kwok.log 2>&1 9>&- </dev/null &'
	have=$(inside kubectl get nodes -l type=kwok --no-headers 2>/dev/null | wc -l)
	for i in $(seq $((have + 1)) $((have + $1))); do
		cat <<-END
			---
			apiVersion: v1
			kind: Node
			metadata:
			  name: fake-$i
			  annotations: {kwok.x-k8s.io/node: fake}
			  labels: {type: kwok, kubernetes.io/os: linux, kubernetes.io/arch: amd64, topology.kubernetes.io/zone: z$((i % 3))}
			spec: {taints: [{key: kwok.x-k8s.io/node, value: fake, effect: NoSchedule}]}
			status:
			  allocatable: {cpu: "32", memory: 256Gi, pods: "110"}
			  capacity: {cpu: "32", memory: 256Gi, pods: "110"}
		END
	done | inside kubectl create -f - >/dev/null
	inside kubectl wait --for=condition=Ready node -l type=kwok --timeout=120s >/dev/null
}

say() {
	local n nodes="one node at"
	n=$(cat "$run/number")
	[ "$(count)" = 1 ] || nodes="$(count) nodes, the first of them at"
	cat <<-END
		Kubernetes $("$bin/kubectl" --kubeconfig "$run/kubeconfig" version -o json | sed -n '/serverVersion/,$s/.*"gitVersion": "\(.*\)".*/\1/p'), $nodes 198.18.$n.2. Use it with:
		  export KUBECONFIG=$run/kubeconfig PATH=$bin:\$PATH
		Node ports answer at 198.18.$n.2; images come from '$0 load IMAGE', or from a registry on port 5000 of this
		machine as localhost:5000/NAME. Look inside with '$0 enter', end it with '$0 down'.
	END
}

command=${1-up}
[ $# -eq 0 ] || shift
case $command in
build) build ;;
up)
	locked
	up
	say
	;;
down)
	locked
	end
	;;
run)
	locked
	if ! first >/dev/null; then trap end EXIT; fi
	up
	flock -u 9
	KUBECONFIG=$run/kubeconfig CLUSTER_SH=$here/cluster.sh CLUSTER_NODE=198.18.$(cat "$run/number").2 CLUSTER_NODES=$(count) CLUSTER_PID=$(first) PATH=$bin:$PATH "$@" 9>&-
	;;
load | nodes) "$command" "$@" ;;
cut | join | kill | boot) "${command}_node" "${1-}" ;;
enter) inside "${@:-bash}" ;;
*) die "$(sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0")" ;;
esac
