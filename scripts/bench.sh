#!/usr/bin/env bash
# Runs the benchmarks. They print ratios against a floor measured in the same run: absolute times depend on the machine.
# SAMPLES, SPANS and LINES say how many samples, spans and log lines are kept and asked for; the large form, SPANS=1000000 LINES=10000000,
# takes ten minutes and 3 GB.
set -euo pipefail
cd "$(dirname "$0")/.."
go test -run '^$' -bench . -benchtime "${BENCHTIME:-1s}" ./...
go test -tags e2e -run '^$' -bench . -benchtime 1x -timeout 30m ./e2e
