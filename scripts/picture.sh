#!/usr/bin/env bash
# Makes docs/demo.svg from a run that happens now: Evergreen under load, an instance killed, a deploy in
# the middle of it. Port 8080 has to be free.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trellis() { "$root/bin/trellis" "$@"; }
end() { (cd "$work/evergreen" && trellis down --volumes --yes >/dev/null 2>&1) || true; rm -rf "$work"; }
trap end EXIT
export NO_COLOR=1 LANG=C.UTF-8
cp -R "$root/examples/evergreen" "$work/evergreen" && rm -rf "$work/evergreen/.trellis"
cd "$work/evergreen"
trellis up -d --yes >&2

transcript=$work/transcript
typed() { printf '$ %s\n' "$*" >>"$transcript"; }
typed 'trellis load http://localhost:8080/courses --rate 200/s --for 20s &'
trellis load http://localhost:8080/courses --rate 200/s --for 20s --quiet >"$work/load" &
load=$!
sleep 3
pid=$(trellis ps --format json | tr -d ' \n' | grep -o '"id":"catalog-[^}]*' | grep -o '"pid":[0-9]*' | head -n 1 | cut -d: -f2)
typed "kill -9 $pid                            # one of two catalogs"
kill -9 "$pid"
sleep 2
sed -i 's/memory: 192M/memory: 256M/' compose.yaml
typed "sed -i 's/memory: 192M/memory: 256M/' compose.yaml && trellis plan | tail -n 1"
trellis plan | tail -n 1 >>"$transcript"
typed 'trellis up -d --quiet && trellis ps     # every service is replaced'
trellis up -d --yes --quiet
trellis ps >>"$transcript"
wait "$load"
typed 'wait'
cat "$work/load" >>"$transcript"

sed -i '/^$/d' "$transcript"
awk -v lines="$(wc -l <"$transcript")" '
	BEGIN {
		height = lines * 20 + 44
		printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 900 %d\" role=\"img\" aria-label=\"A terminal: Evergreen under load, an instance killed, a deploy, no request failed\">\n", height
		print "<style>text { white-space: pre }</style>"
		printf "<rect width=\"900\" height=\"%d\" rx=\"8\" fill=\"#14201b\"/>\n", height
		print "<g font-family=\"ui-monospace, SFMono-Regular, Menlo, Consolas, monospace\" font-size=\"13.5\" fill=\"#c9d6cf\">"
		y = 36
	}
	{
		gsub(/&/, "\\&amp;"); gsub(/</, "\\&lt;"); gsub(/>/, "\\&gt;")
		fill = ""
		if ($0 ~ /^\$ /) fill = " fill=\"#ffffff\" font-weight=\"600\""
		gsub(/0 failed, 0 missed, 0 lost/, "<tspan fill=\"#5fd38d\" font-weight=\"600\">&</tspan>")
		printf "<text x=\"20\" y=\"%d\"%s>%s</text>\n", y, fill, $0
		y += 20
	}
	END { print "</g>\n</svg>" }
' "$transcript" >"$root/docs/demo.svg"
cat "$transcript"
