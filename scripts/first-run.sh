#!/usr/bin/env bash
# What somebody meets who has just found this repository: a fresh clone, an empty home, empty caches of Go, no variables
# but the necessary ones; types what README.md says, and measures from the clone to the page. Then once more with the
# caches warm. With --user it does so as an ordinary user. Fails where a command fails, where the page does not say what
# it should, or where it takes longer than the goals: COLD seconds (default 300), then WARM (default 30).
set -euo pipefail
: "${COLD:=300}" "${WARM:=30}"
source=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
as=()
if [ "${1:-}" = --user ] && [ "$(id -u)" = 0 ]; then
	as=(setpriv --reuid 65534 --regid 65534 --clear-groups)
	chown 65534:65534 "$work"
fi
go=$(go env GOROOT)/bin
proxy=$(go env GOPROXY) sumdb=$(go env GOSUMDB)

# typed runs a line as the newcomer would, in the clone.
typed() {
	(cd "$work/${2:-trellis}" && "${as[@]}" env -i PATH="$go:/usr/local/bin:/usr/bin:/bin" HOME="$work/home" LANG=C.UTF-8 \
		GOPROXY="$proxy" GOSUMDB="$sumdb" bash -euc "$1")
}
typed 'mkdir home && git config --global --add safe.directory "*"' .
end() {
	if [ -d "$work/trellis" ]; then typed 'make demo-down' || true; fi
	chmod -R u+w "$work" && rm -rf "$work" # Go's caches are read-only
}
trap end EXIT

# first_run clones, types the line of README.md that brings the example up, and asks for the page.
first_run() {
	local begin=$EPOCHREALTIME goal=$1 what=$2
	typed "git clone -q '$source' trellis" .
	grep -q '^make demo ' "$work/trellis/README.md"
	typed 'make demo'
	typed 'curl -fsS http://localhost:8080/ | grep -q Evergreen'
	local took=$(((${EPOCHREALTIME/./} - ${begin/./}) / 1000))
	printf '\n== %s: from the clone to the page in %d.%03d s (goal: %d s)\n' "$what" $((took / 1000)) $((took % 1000)) "$goal"
	[ "$took" -le $((goal * 1000)) ]
	typed 'make demo-down'
}

first_run "$COLD" "empty caches"
chmod -R u+w "$work/trellis" && rm -rf "$work/trellis"
first_run "$WARM" "warm caches"
