#!/bin/sh
# Runs Debian's PostgreSQL the way the image "postgres" does: the same variables, the same folder, in the foreground.
#   PGDATA (/var/lib/postgresql/data), POSTGRES_USER (postgres), POSTGRES_DB (POSTGRES_USER),
#   POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE
set -eu
umask 077
: "${PGDATA:=/var/lib/postgresql/data}" "${POSTGRES_USER:=postgres}"
: "${POSTGRES_DB:=$POSTGRES_USER}"
bin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)

if [ -n "${POSTGRES_PASSWORD_FILE:-}" ]; then
	POSTGRES_PASSWORD=$(cat "$POSTGRES_PASSWORD_FILE")
fi
unset POSTGRES_PASSWORD_FILE

if [ "$(id -u)" = 0 ]; then
	# A new volume and a new tmpfs belong to root; the server does not run as root.
	mkdir -p "$PGDATA" /run/postgresql
	chown postgres:postgres "$PGDATA" /run/postgresql
	chmod 700 "$PGDATA"
	chmod 755 /run/postgresql
	export PGDATA POSTGRES_USER POSTGRES_DB POSTGRES_PASSWORD
	exec setpriv --reuid=postgres --regid=postgres --init-groups -- "$0" "$@"
fi

cd "$PGDATA"
if [ ! -s PG_VERSION ]; then
	: "${POSTGRES_PASSWORD:?POSTGRES_PASSWORD or POSTGRES_PASSWORD_FILE must be set}"
	# A cluster is made beside its place and moved there, its version file last, so that one that was interrupted is
	# made again.
	find . -mindepth 1 -maxdepth 1 -exec rm -rf {} +
	printf '%s\n' "$POSTGRES_PASSWORD" >.password
	"$bin/initdb" -D .new -U "$POSTGRES_USER" --pwfile=.password --auth-local=trust --auth-host=scram-sha-256 \
		-E UTF8 --locale=C.UTF-8
	rm .password
	echo 'host all all all scram-sha-256' >>.new/pg_hba.conf
	if [ "$POSTGRES_DB" != postgres ]; then
		printf 'CREATE DATABASE "%s";\n' "$POSTGRES_DB" | "$bin/postgres" --single -D .new postgres >/dev/null
	fi
	for entry in .new/*; do
		[ "$entry" = .new/PG_VERSION ] || mv "$entry" .
	done
	mv .new/PG_VERSION .
	rmdir .new
fi
unset POSTGRES_PASSWORD
exec "$bin/postgres" -D "$PGDATA" -c listen_addresses='*' -c unix_socket_directories=/run/postgresql "$@"
