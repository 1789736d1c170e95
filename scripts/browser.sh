#!/usr/bin/env bash
# Looks at Evergreen's pages in Chromium: axe, light and dark, phone and desktop. The pictures are left in bin/pictures.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh browser
mkdir -p bin/pictures
PICTURES=$PWD/bin/pictures go test -tags 'e2e browser' -count=1 -timeout 15m -v -run TestEvergreenInABrowser ./e2e
