#!/bin/sh
# Installs the programs that the stand-ins run, from Debian's packages, and leaves none of them running as services of
# this machine. It may be run any number of times; it needs root.
set -eu

need=
want() { # want PROGRAM PACKAGE
	command -v "$1" >/dev/null 2>&1 || [ -x "$1" ] || need="$need $2"
}
export PATH="$PATH:/usr/sbin:/sbin"
want nginx nginx-light
want /usr/share/postgresql-common/pg_wrapper postgresql
want redis-server redis-server
want redis-cli redis-tools
want mariadbd mariadb-server
want mysqladmin mariadb-client
want python3 python3
want node nodejs
want curl curl
want setpriv util-linux
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || need="$need postgresql"

if [ -n "$need" ]; then
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		# Debian's packages start what they install unless this program says 101.
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		trap 'rm -f "$policy"' EXIT
	fi
	export DEBIAN_FRONTEND=noninteractive
	apt-get update -qq
	# shellcheck disable=SC2086
	apt-get install -y -qq --no-install-recommends $need
fi

if [ -d /run/systemd/system ]; then
	for unit in nginx postgresql redis-server mariadb; do
		systemctl disable --now "$unit" >/dev/null 2>&1 || true
	done
fi
echo "ready: $(nginx -v 2>&1), $(redis-server --version | cut -d' ' -f1-3), $(mariadbd --version | sed 's/ *(.*//'), node $(node --version), $(python3 --version)"
