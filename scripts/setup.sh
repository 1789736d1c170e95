#!/usr/bin/env bash
# Installs what the tests need from Debian's packages, if it is not there; quick when it is.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(nginx-light postgresql redis-server mariadb-server python3 wrk iproute2)
programs=(nginx postgres redis-server mariadbd python3 wrk ip)

missing() {
	local found=()
	for i in "${!programs[@]}"; do
		command -v "${programs[$i]}" >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/"${programs[$i]}" >/dev/null 2>&1 ||
			ls /usr/sbin/"${programs[$i]}" >/dev/null 2>&1 || found+=("${packages[$i]}")
	done
	printf '%s\n' "${found[@]}"
}

want=$(missing)
[ -z "$want" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	printf 'the tests need these programs; install them and run again:\n%s\n' "$want"
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# The distribution's own services must not start: the tests bring their own.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod +x "$policy"
	made=1
fi
trap '[ -z "$made" ] || rm -f "$policy"' EXIT
apt-get update -qq
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $want >/dev/null
