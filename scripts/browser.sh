#!/usr/bin/env bash
# Looks at Evergreen's pages and at the console in Chromium: axe, light and dark, phone and desktop; and builds the console
# anew, which has to be what is committed. The pictures are left in bin/pictures.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh browser
scripts/console.sh check
mkdir -p bin/pictures
PICTURES=$PWD/bin/pictures go test -tags 'e2e browser' -count=1 -timeout 15m -v -run InABrowser ./e2e
