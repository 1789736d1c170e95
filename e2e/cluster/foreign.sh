#!/usr/bin/env bash
# Fetches the definitions of what a cluster may have besides Kubernetes, for the tests that apply objects of it: nothing of it runs.
#   e2e/cluster/foreign.sh DIR && FOREIGN_CRDS=DIR e2e/cluster/cluster.sh run ...
# What cannot be had from here is left out, and its tests are skipped.
set -euo pipefail
to=$(realpath -m "${1:?the DIR to write to}")
mkdir -p "$to"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cd "$scratch"
go mod init scratch >/dev/null 2>&1

# module prints where a version of a module is, nothing where it cannot be had.
module() { go mod download -json "$1" 2>/dev/null | sed -n 's/^\t"Dir": "\(.*\)",$/\1/p'; }

# documents writes files of YAML one after the other.
documents() {
	for f in "$@"; do
		echo ---
		cat "$f"
	done
}

if dir=$(module github.com/prometheus-operator/prometheus-operator@v0.93.0) && [ -n "$dir" ]; then
	documents "$dir"/example/prometheus-operator-crd/monitoring.coreos.com_{podmonitors,prometheusrules}.yaml >"$to/prometheus-operator.yaml"
fi
if dir=$(module istio.io/api@v1.32.0) && [ -n "$dir" ]; then
	cp "$dir/kubernetes/customresourcedefinitions.gen.yaml" "$to/istio.yaml"
	chmod u+w "$to/istio.yaml"
fi
if dir=$(module github.com/kedacore/keda/v2@v2.21.0) && [ -n "$dir" ]; then
	documents "$dir/config/crd/bases/keda.sh_scaledobjects.yaml" >"$to/keda.yaml"
fi
# Linkerd's releases are no versions of a Go module.
if dir=$(module github.com/linkerd/linkerd2@b24cd4059) && [ -n "$dir" ]; then
	for f in "$dir"/charts/linkerd-crds/templates/policy/{authorization-policy,httproute,meshtls-authentication,network-authentication,server}.yaml; do
		echo ---
		sed '/{{/d' "$f"
	done >"$to/linkerd.yaml"
fi
ls "$to"
