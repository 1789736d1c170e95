#!/usr/bin/env bash
# usage: faults.sh [NUMBER...]   tries faults, all of them if none is named, and prints what was tried, held and lost
#   FAULTS=short       the forms that are part of make test
#   FAULTS_SEED=...    repeats what was random in a run
#   SEEDS=20000        random worlds for the planner
#   ENGINES=kubernetes those of a cluster too, which is built and started for it; with NODES=2 of two nodes, one of which is lost
set -euo pipefail
cd "$(dirname "$0")/.."
# As wherever systemd runs, what is unmounted on the machine is to go from what instances see of it too.
if [ "$(id -u)" = 0 ] && [ -z "${ROOT_SHARED-}" ] && [ "$(findmnt -no PROPAGATION /)" = private ]; then
	ROOT_SHARED=1 exec unshare -m --propagation unchanged bash -c 'mount --make-rshared / && exec "$0" "$@"' scripts/faults.sh "$@"
fi
case ,${ENGINES-}, in
*,kubernetes,*) [ -n "${CLUSTER_NODE-}" ] || exec e2e/cluster/cluster.sh run scripts/faults.sh "$@" ;;
esac
case ,${DRIVERS-process,docker}, in
*,docker,*) [ -n "${ENGINE_STARTED-}" ] || ENGINE_STARTED=1 exec scripts/engine.sh scripts/faults.sh "$@" ;;
esac
go -C tools build -o ../bin/faults ./faults
exec bin/faults "$@"
