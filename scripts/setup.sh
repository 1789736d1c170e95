#!/usr/bin/env bash
# Installs what the tests need from Debian's packages, if it is not there, and leaves none of it running as a service of
# this machine. Quick when all is there; to install, it needs root. With the argument "browser" also what looks at pages,
# with "prometheus" also Prometheus, with "cluster" only what a Kubernetes of one node is started with.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$PATH:/usr/sbin:/sbin"
what=${1:-tests}

# program package: what the race detector links with, what the projects of e2e/projects run, what asks them, and what
# the tests measure with.
wanted() {
	if [ "$what" = cluster ]; then
		cat <<-END
			containerd containerd
			runc runc
			iptables iptables
			/usr/lib/cni/bridge containernetworking-plugins
			ip iproute2
			pgrep procps
			openssl openssl
			curl curl
			nsenter util-linux
			busybox busybox-static
		END
		return
	fi
	cat <<-END
		gcc build-essential
		nginx nginx-light
		postgres postgresql
		pg_isready postgresql-client
		redis-server redis-server
		redis-cli redis-tools
		mariadbd mariadb-server
		mysqladmin mariadb-client
		node nodejs
		python3 python3
		curl curl
		setpriv util-linux
		wrk wrk
		ip iproute2
		dockerd docker.io
		docker docker.io
		docker-compose docker-compose
	END
	[ "$what" != browser ] || printf '%s\n' 'chromium chromium' 'npm npm'
	[ "$what" != prometheus ] || printf '%s\n' 'prometheus prometheus' 'promtool prometheus'
}

missing() {
	wanted | while read -r program package; do
		command -v "$program" >/dev/null 2>&1 || ls /usr/lib/postgresql/*/bin/"$program" >/dev/null 2>&1 || echo "$package"
	done | sort -u
}

want=$(missing)
[ -z "$want" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
	printf 'the tests need these packages; install them and run again:\n%s\n' "$want"
	exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Debian's packages start what they install unless this program says 101: the tests bring their own.
policy=/usr/sbin/policy-rc.d
made=
if [ ! -e "$policy" ]; then
	printf '#!/bin/sh\nexit 101\n' >"$policy"
	chmod 755 "$policy"
	made=1
fi
trap '[ -z "$made" ] || rm -f "$policy"' EXIT
apt-get update -qq
# Later releases of Debian have the docker command in a package of its own.
case $want in *docker.io*) if apt-cache show docker-cli >/dev/null 2>&1; then want="$want docker-cli"; fi ;; esac
# shellcheck disable=SC2086
apt-get install -y -qq --no-install-recommends $want >/dev/null
if [ -d /run/systemd/system ]; then
	for unit in nginx postgresql redis-server mariadb prometheus prometheus-node-exporter; do
		systemctl disable --now "$unit" >/dev/null 2>&1 || true
	done
	case $want in *docker.io* | *containerd*) systemctl disable --now docker.socket docker containerd >/dev/null 2>&1 || true ;; esac
fi
want=$(missing)
[ -z "$want" ] || { printf 'installed, and still not there:\n%s\n' "$want"; exit 1; }
