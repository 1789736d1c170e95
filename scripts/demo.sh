#!/usr/bin/env bash
# Brings Evergreen, the example platform, up and says where it is.
set -euo pipefail
cd "$(dirname "$0")/../examples/evergreen"
../../bin/trellis up -d --yes
