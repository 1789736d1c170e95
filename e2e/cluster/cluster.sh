#!/usr/bin/env bash
# usage: cluster.sh up              starts a Kubernetes of one node and says how to use it; one that runs is kept
#        cluster.sh down            ends it; nothing of it is left but the programs in the cache
#        cluster.sh run COMMAND...  runs a command with KUBECONFIG set: on the cluster that runs, or on one of its own
#        cluster.sh load IMAGE...   gives the node images: archives, or images of the Docker Engine here
#        cluster.sh nodes N         adds N nodes that do not exist (kwok), tainted kwok.x-k8s.io/node=fake
#        cluster.sh enter [CMD...]  a shell, or a command, inside the node
#        cluster.sh build           builds the programs into the cache, as up does where they are not there
# The whole cluster lives in namespaces of its own, below one process; this machine reaches it over one veth pair. It
# needs root, and the packages of `scripts/setup.sh cluster`. CLUSTER names a second one of the same checkout.
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

up() {
	if first >/dev/null; then return; fi
	[ "$(id -u)" = 0 ] || die "a cluster needs root: namespaces, mounts and control groups are made for it"
	"$here/../../scripts/setup.sh" cluster
	end
	build
	local n=0
	while ip link show "trellis-k$n" >/dev/null 2>&1 || [ -n "$(groups_of "$n")" ]; do n=$((n + 1)); done
	[ "$n" -lt 256 ] || die "no address is left between 198.18.0.0 and 198.18.255.0"
	mkdir -p "$run"
	echo "$n" >"$run/number"
	"$here/config.sh" "$run" "$n"
	setsid unshare --mount --net --pid --uts --ipc --fork --mount-proc --kill-child=KILL \
		"$here/node.sh" "$run" "$bin" "$n" >"$run/node.log" 2>&1 9>&- </dev/null &
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
	tail -n 5 "$run"/node.log "$run"/log/*.log >&2 || true
	cp -r "$run/log" "$run.failed" 2>/dev/null || true
	end
	exit 1
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
	local image archive
	for image in "$@"; do
		archive=$image
		if [ ! -f "$image" ]; then
			archive=$run/image.tar
			docker save -o "$archive" "$image" || die "$image is neither a file nor an image of the Docker Engine here"
		fi
		inside ctr -n k8s.io images import - <"$archive" >/dev/null
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
	local n
	n=$(cat "$run/number")
	cat <<-END
		Kubernetes $("$bin/kubectl" --kubeconfig "$run/kubeconfig" version -o json | sed -n '/serverVersion/,$s/.*"gitVersion": "\(.*\)".*/\1/p'), one node at 198.18.$n.2. Use it with:
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
	KUBECONFIG=$run/kubeconfig CLUSTER_SH=$here/cluster.sh CLUSTER_NODE=198.18.$(cat "$run/number").2 CLUSTER_PID=$(first) PATH=$bin:$PATH "$@" 9>&-
	;;
load | nodes) "$command" "$@" ;;
enter) inside "${@:-bash}" ;;
*) die "$(sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0")" ;;
esac
