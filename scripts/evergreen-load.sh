#!/usr/bin/env bash
# Evergreen's visit at 100 visits a second for two minutes, services killed meanwhile, and half as long at the monolith.
set -euo pipefail
cd "$(dirname "$0")/.."
EVERGREEN_FULL=1 go test -tags e2e -count=1 -timeout 20m -v -run 'TestEvergreenBears|TestTheMonolithBears' ./e2e
