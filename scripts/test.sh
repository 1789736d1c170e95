#!/usr/bin/env bash
# Every test with the race detector, the example's own, and the end-to-end tests against the real binary, the heart of them
# in a real Kubernetes too (`make test-kubernetes` has all of those). DRIVERS names the drivers that have to be tested
# (process,docker where it is not set), ENGINES the engines: one that is not there fails. Where ENGINES is not set, a
# machine on which no Kubernetes can be started goes without, and is told so; ENGINES=local is without.
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
endtoend=(go test -tags e2e -count=1 -short -parallel 8 -timeout 40m ./e2e/...)
case ,${ENGINES-local,kubernetes}, in
*,kubernetes,*)
	status=0
	ENGINES=local,kubernetes e2e/cluster/cluster.sh run "${endtoend[@]}" || status=$?
	if [ "$status" != 3 ] || [ -n "${ENGINES+set}" ]; then exit "$status"; fi
	;;
esac
ENGINES=local "${endtoend[@]}"
case ,${ENGINES-local,kubernetes}, in
*,kubernetes,*) echo "NOT TESTED: Kubernetes, which this machine cannot run (see above)" ;;
esac
