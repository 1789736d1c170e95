#!/usr/bin/env bash
# Brings Evergreen, the example platform, up and says where it is, what to try and how to end it. Without root its data
# is in folders instead of volumes.
set -euo pipefail
cd "$(dirname "$0")/../examples/evergreen"
trellis=../../bin/trellis
files=(-f compose.yaml)
if ! $trellis check >/dev/null 2>&1; then
	export EVERGREEN_DATA=${EVERGREEN_DATA:-$PWD/.trellis/data}
	files+=(-f compose.user.yaml)
fi
$trellis "${files[@]}" up -d --yes
cat <<END

Evergreen answers at http://localhost:8080. To try next, in another terminal:

  cd examples/evergreen
  $trellis ps -i            what runs, each instance with its pid: kill -9 one of them
  $trellis logs -f web      its output; 'top' shows what it costs, 'events' what happened
  $trellis load http://localhost:8080/courses --rate 200/s --for 10s
                                 under load; meanwhile:
  $trellis restart web      every instance replaced, no request lost

'make demo-down' ends it and keeps its data.
END
