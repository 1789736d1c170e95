#!/usr/bin/env bash
# A real Prometheus scrapes, federates, remote-writes to and from a project; promtool asks it; OpenTelemetry's telemetrygen
# sends it traces, metrics and logs, which are counted; and what a sample costs is measured beside Prometheus. Installs what
# is missing: Debian's prometheus, and telemetrygen by the Go module proxy.
set -euo pipefail
cd "$(dirname "$0")/.."
TELEMETRYGEN=v0.161.0
scripts/setup.sh prometheus
if [ "$(go version -m bin/telemetrygen 2>/dev/null | awk '$1 == "mod" {print $3}')" != "$TELEMETRYGEN" ]; then
	mkdir -p bin
	GOBIN=$PWD/bin GOFLAGS= go install "github.com/open-telemetry/opentelemetry-collector-contrib/cmd/telemetrygen@$TELEMETRYGEN"
fi
TELEMETRYGEN=$PWD/bin/telemetrygen go test -tags 'e2e interop' -count=1 -timeout 10m -v -run Interop -bench BesidePrometheus -benchtime 1x ./e2e
