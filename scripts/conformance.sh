#!/usr/bin/env bash
# Connect's conformance runner and gRPC's interoperability cases, each with the gateway between client and server: Connect,
# gRPC and gRPC-Web over HTTP/1.1 and HTTP/2, with TLS and without. Installs both from the Go module proxy.
#   CASES='Basic/**'   only these of the runner
set -euo pipefail
cd "$(dirname "$0")/.."
: "${GO:=go}"
CONFORMANCE=v1.0.7 GRPC=v1.85.0
mkdir -p bin/conformance/interop
for program in connectconformance referenceserver; do
	if [ "$("$GO" version -m "bin/conformance/$program" 2>/dev/null | awk '$1 == "mod" {print $3}')" != "$CONFORMANCE" ]; then
		GOBIN=$PWD/bin/conformance GOFLAGS= "$GO" install "connectrpc.com/conformance/cmd/$program@$CONFORMANCE"
	fi
done
for program in client server; do
	if [ "$("$GO" version -m "bin/conformance/interop/$program" 2>/dev/null | awk '$1 == "mod" {print $3}')" != "$GRPC" ]; then
		GOBIN=$PWD/bin/conformance/interop GOFLAGS= "$GO" install "google.golang.org/grpc/interop/$program@$GRPC"
	fi
done
"$GO" test -vet=off -tags conformance -c -o bin/conformance/gateway.test ./proxy
export CONFORMANCE_SERVER=$PWD/bin/conformance/referenceserver
bin/conformance/connectconformance --mode server --conf proxy/testdata/conformance.yaml ${CASES:+--run "$CASES"} \
	-- bin/conformance/gateway.test -test.run '^TestBehindTheGateway$' -test.timeout 0
INTEROP=$PWD/bin/conformance/interop bin/conformance/gateway.test -test.run '^TestGRPCInterop$' -test.v
