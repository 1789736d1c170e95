#!/usr/bin/env bash
# usage: config.sh DIR N NODES   writes the keys and the configuration of a cluster into DIR, which its first node sees as
# /mnt, and those of node K into DIR/nodeK, which that one sees as /mnt. Cluster N has the addresses 198.18.N.1 (this
# machine), 198.18.N.2 (the first node) and up, out of a range kept for tests of networks; pods of node K have 10.244.(K-1).x.
set -euo pipefail
cd "$1"
n=$2
nodes=$3
ip=198.18.$n.2
mkdir -p etcd tmp
chmod 1777 tmp
umask 077
mkdir -p pki

# authority NAME, certificate NAME AUTHORITY SUBJECT USAGE [NAMES]: P-256, one month.
authority() {
	openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "pki/$1.key" -out "pki/$1.crt" -days 30 \
		-subj "/CN=$1" -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign,cRLSign' 2>/dev/null
}
certificate() {
	{
		printf 'basicConstraints=CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\n' "$4"
		[ -z "${5-}" ] || echo "subjectAltName=$5"
	} >pki/extensions
	openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout "pki/$1.key" -subj "$3" 2>/dev/null |
		openssl x509 -req -CA "pki/$2.crt" -CAkey "pki/$2.key" -CAcreateserial -days 30 -extfile pki/extensions -out "pki/$1.crt" 2>/dev/null
}
authority ca
authority front-proxy-ca
openssl genrsa -out pki/accounts.key 2048 2>/dev/null
openssl rsa -in pki/accounts.key -pubout -out pki/accounts.pub 2>/dev/null
service=DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local
certificate apiserver ca /CN=kube-apiserver serverAuth "$service,DNS:localhost,IP:127.0.0.1,IP:$ip,IP:10.96.0.1"
certificate apiserver-kubelet ca /O=system:masters/CN=kube-apiserver-kubelet clientAuth
certificate front-proxy front-proxy-ca /CN=front-proxy clientAuth
certificate admin ca /O=system:masters/CN=admin clientAuth
certificate controller-manager ca /CN=system:kube-controller-manager clientAuth
certificate scheduler ca /CN=system:kube-scheduler clientAuth
certificate proxy ca /CN=system:kube-proxy clientAuth

kubeconfig() {
	cat <<-END
		apiVersion: v1
		kind: Config
		clusters: [{name: trellis-test, cluster: {server: "https://$ip:6443", certificate-authority-data: $(base64 -w0 <pki/ca.crt)}}]
		users: [{name: $1, user: {client-certificate-data: $(base64 -w0 <"pki/$1.crt"), client-key-data: $(base64 -w0 <"pki/$1.key")}}]
		contexts: [{name: trellis-test, context: {cluster: trellis-test, user: $1}}]
		current-context: trellis-test
	END
}
kubeconfig admin >kubeconfig
for user in controller-manager scheduler proxy; do kubeconfig $user >pki/$user.kubeconfig; done

# node K DIR: what node K is known by, and how its programs are configured.
node() {
	local k=$1 groups=/trellis-k$n
	(umask 022 && cd "$2" && mkdir -p log var/lib/kubelet var/log tmp containerd cni registry/localhost:5000)
	certificate kubelet ca "/O=system:nodes/CN=system:node:node$k" clientAuth,serverAuth "DNS:node$k,IP:198.18.$n.$((k + 1))"
	kubeconfig kubelet >pki/kubelet.kubeconfig
	if [ "$k" != 1 ]; then
		groups=$groups/node$k
		mkdir "$2/pki"
		cp pki/ca.crt pki/proxy.kubeconfig "$2/pki"
		mv pki/kubelet.* "$2/pki"
	fi
	(cd "$2" && configure "$k" "$groups")
}

# configure K GROUPS: as node does, into the folder that this is called in.
configure() {
	cat >containerd.toml <<-'END'
		version = 2
		root = "/mnt/containerd"
		state = "/run/containerd"
		oom_score = 0
		[grpc]
		  address = "/run/containerd/containerd.sock"
		[plugins."io.containerd.grpc.v1.cri"]
		  # Without CAP_SYS_RESOURCE no score may be lowered, and every pod would fail.
		  restrict_oom_score_adj = true
		  sandbox_image = "docker.io/local/pause:1"
		  [plugins."io.containerd.grpc.v1.cri".cni]
		    bin_dir = "/usr/lib/cni"
		    conf_dir = "/mnt/cni"
		  [plugins."io.containerd.grpc.v1.cri".registry]
		    config_path = "/mnt/registry"
		  [plugins."io.containerd.grpc.v1.cri".containerd]
		    snapshotter = "SNAPSHOTTER"
		    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
		      runtime_type = "io.containerd.runc.v2"
		      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
		        SystemdCgroup = false
	END
	cat >registry/localhost:5000/hosts.toml <<-END
		[host."http://198.18.$n.1:5000"]
		  capabilities = ["pull", "resolve"]
	END
	# Who calls from another node is known by the pod's own address: node.sh hides only what leaves the cluster.
	cat >cni/10-bridge.conflist <<-END
		{"cniVersion": "0.4.0", "name": "bridge", "plugins": [
		  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": false, "hairpinMode": true,
		   "ipam": {"type": "host-local", "dataDir": "/var/lib/cni", "ranges": [[{"subnet": "10.244.$(($1 - 1)).0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
		  {"type": "portmap", "capabilities": {"portMappings": true}}]}
	END
	cat >kubelet.yaml <<-END
		apiVersion: kubelet.config.k8s.io/v1beta1
		kind: KubeletConfiguration
		failCgroupV1: false
		cgroupDriver: cgroupfs
		cgroupRoot: $2
		enforceNodeAllocatable: [pods]
		failSwapOn: false
		containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
		authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /mnt/pki/ca.crt}}
		authorization: {mode: Webhook}
		tlsCertFile: /mnt/pki/kubelet.crt
		tlsPrivateKeyFile: /mnt/pki/kubelet.key
		clusterDNS: [10.96.0.10]
		clusterDomain: cluster.local
		resolvConf: /mnt/resolv.conf
		nodeStatusUpdateFrequency: 4s
		# The disk is shared with the machine: one that is almost full is no reason to evict, nor to delete images that come
		# from nowhere else.
		evictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}
		imageGCHighThresholdPercent: 100
	END
	echo "nameserver $ip" >resolv.conf
	cat >proxy.yaml <<-END
		apiVersion: kubeproxy.config.k8s.io/v1alpha1
		kind: KubeProxyConfiguration
		clientConnection: {kubeconfig: /mnt/pki/proxy.kubeconfig}
		mode: iptables
		clusterCIDR: 10.244.0.0/16
		hostnameOverride: node$1
		conntrack: {maxPerCore: 0}
	END
}
for k in $(seq 2 "$nodes"); do
	(umask 022 && mkdir "node$k")
	node "$k" "node$k"
done
node 1 .

cat >Corefile <<END
.:53 {
	bind $ip
	errors
	health 127.0.0.1:8181
	ready 127.0.0.1:8182
	kubernetes cluster.local in-addr.arpa ip6.arpa {
		kubeconfig /mnt/kubeconfig
		pods insecure
		ttl 5
	}
	cache 5
}
END
# What the cluster itself is given: names, measurements of pods, and volumes as folders of the node.
cat >addons.yaml <<END
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system, labels: {k8s-app: kube-dns}}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: [$ip], conditions: {ready: true}}]
---
apiVersion: v1
kind: Service
metadata: {name: metrics-server, namespace: kube-system}
spec: {ports: [{port: 443, targetPort: 10443}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: metrics-server-1, namespace: kube-system, labels: {kubernetes.io/service-name: metrics-server}}
addressType: IPv4
ports: [{port: 10443, protocol: TCP}]
endpoints: [{addresses: [$ip], conditions: {ready: true}}]
---
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1beta1.metrics.k8s.io}
spec:
  group: metrics.k8s.io
  version: v1beta1
  groupPriorityMinimum: 100
  versionPriority: 100
  insecureSkipTLSVerify: true
  service: {name: metrics-server, namespace: kube-system}
---
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: folder, annotations: {storageclass.kubernetes.io/is-default-class: "true"}}
provisioner: kubernetes.io/host-path
END
