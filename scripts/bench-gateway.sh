#!/usr/bin/env bash
# Measures the gateway beside nginx and HAProxy (Debian's) and Caddy (built here, from its module), on the same instances,
# one after the other in every round: over HTTP/1.1, TLS 1.3, HTTP/2 and both, with and without a token to prove.
# ROUNDS (3), REQUESTS a round (100000), RATE (2000) and IDLE (10000) change how much, HOW (HTTP/1.1, TLS 1.3, HTTP/2,
# "HTTP/2, TLS 1.3") leaves one of the tables, and BEFORE is another build of bin/bench/gateway.test to measure beside.
set -euo pipefail
cd "$(dirname "$0")/.."
: "${GO:=go}" "${REQUESTS:=100000}" "${CADDY_VERSION:=v2.11.9}"
export REQUESTS
missing=()
for p in nginx haproxy; do PATH=$PATH:/usr/sbin command -v "$p" >/dev/null || missing+=("$p"); done
if [ ${#missing[@]} -gt 0 ]; then
	apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null || echo "without ${missing[*]}"
fi
mkdir -p bin/bench
export PATH=$PWD/bin/bench:$PATH:/usr/sbin
if ! command -v caddy >/dev/null; then
	GOBIN=$PWD/bin/bench "$GO" install "github.com/caddyserver/caddy/v2/cmd/caddy@$CADDY_VERSION" || echo "without caddy"
fi
ulimit -n "$(ulimit -Hn)"
"$GO" test -vet=off -tags gateway -c -o bin/bench/gateway.test ./proxy
cd proxy
exec ../bin/bench/gateway.test -test.run '^TestGateways$' -test.timeout 2h
