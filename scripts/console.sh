#!/usr/bin/env bash
# Builds the web console of web/ into console/dist, which is committed. With "check" it fails where what is committed is
# not what its sources build.
set -euo pipefail
cd "$(dirname "$0")/.."
(cd web && npm ci --ignore-scripts --no-audit --no-fund && npm run build)
if [ "${1-}" = check ]; then
	changed=$(git status --porcelain console/dist console/sources.sha256)
	if [ -n "$changed" ]; then
		echo "console/dist is not what web/ builds; run 'make console' and commit it:" >&2
		echo "$changed" >&2
		exit 1
	fi
fi
