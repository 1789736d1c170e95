#!/usr/bin/env bash
# Every test with the race detector, the example's own, and the end-to-end tests against the real binary. DRIVERS names
# the drivers that have to be tested (process,docker where it is not set): one that is not there fails.
set -euo pipefail
cd "$(dirname "$0")/.."
export CGO_ENABLED=1 DRIVERS=${DRIVERS-process,docker}
case ,$DRIVERS, in
*,docker,*) [ -n "${ENGINE_STARTED-}" ] || ENGINE_STARTED=1 exec scripts/engine.sh scripts/test.sh ;;
esac

go test -race -timeout 15m ./...
(cd examples/evergreen && go test -race -timeout 10m ./...)
(cd tools && go test ./...)
(cd cmd/terraform-provider-trellis && go test ./...)
# One package at a time: they count lost requests. Its tests mostly wait, so that several run side by side; those that
# need the machine to themselves run before.
go test -tags e2e -count=1 -parallel 8 -timeout 40m ./e2e/...
