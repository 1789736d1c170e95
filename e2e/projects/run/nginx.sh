#!/bin/sh
# Runs Debian's nginx the way the image "nginx" does: it serves what /etc/nginx/conf.d/*.conf says, and nothing that
# Debian's package serves besides; logs go to standard output and standard error.
set -eu
cd "$(dirname "$0")"
exec nginx -c "$PWD/nginx.conf" -g 'daemon off;' "$@"
