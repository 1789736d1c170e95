#!/bin/sh
# Runs Debian's MariaDB the way the image "mariadb" does: the same variables, the same folder, in the foreground.
#   MYSQL_DATABASE, MYSQL_ROOT_PASSWORD or MYSQL_ROOT_PASSWORD_FILE; data in /var/lib/mysql
set -eu
umask 077
data=/var/lib/mysql
if [ -n "${MYSQL_ROOT_PASSWORD_FILE:-}" ]; then
	MYSQL_ROOT_PASSWORD=$(cat "$MYSQL_ROOT_PASSWORD_FILE")
fi
: "${MYSQL_ROOT_PASSWORD:?MYSQL_ROOT_PASSWORD or MYSQL_ROOT_PASSWORD_FILE must be set}"

mkdir -p "$data" /run/mysqld
chown mysql:mysql "$data" /run/mysqld
chmod 755 /run/mysqld

if [ ! -e "$data/.complete" ]; then
	# Tables that were left half made are made again.
	find "$data" -mindepth 1 -maxdepth 1 -exec rm -rf {} +
	mariadb-install-db --no-defaults --user=mysql --datadir="$data" --auth-root-authentication-method=normal --skip-test-db
	touch "$data/.complete"
	chown mysql:mysql "$data/.complete"
fi

# Said at every start: a password or database that the file names later comes to be.
quoted=$(printf '%s' "$MYSQL_ROOT_PASSWORD" | sed "s/[\\\\']/\\\\&/g")
{
	if [ -n "${MYSQL_DATABASE:-}" ]; then
		printf 'CREATE DATABASE IF NOT EXISTS `%s`;\n' "$MYSQL_DATABASE"
	fi
	for host in localhost %; do
		printf "CREATE USER IF NOT EXISTS 'root'@'%s';\n" "$host"
		printf "ALTER USER 'root'@'%s' IDENTIFIED BY '%s';\n" "$host" "$quoted"
		printf "GRANT ALL ON *.* TO 'root'@'%s' WITH GRANT OPTION;\n" "$host"
	done
} >/run/mysqld/init.sql
chown mysql:mysql /run/mysqld/init.sql
unset MYSQL_ROOT_PASSWORD MYSQL_ROOT_PASSWORD_FILE
exec mariadbd --no-defaults --user=mysql --datadir="$data" --socket=/run/mysqld/mysqld.sock \
	--pid-file=/run/mysqld/mysqld.pid --bind-address=0.0.0.0 \
	--character-set-server=utf8mb4 --collation-server=utf8mb4_general_ci --init-file=/run/mysqld/init.sql "$@"
