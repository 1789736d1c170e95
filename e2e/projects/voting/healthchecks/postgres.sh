#!/bin/sh
# Healthy is a server that answers a question, not merely one that listens.
set -eu
export PGPASSWORD="$POSTGRES_PASSWORD"
[ "$(psql -h 127.0.0.1 -U "${POSTGRES_USER:-postgres}" -d "${POSTGRES_DB:-${POSTGRES_USER:-postgres}}" -qtAXc 'SELECT 1')" = 1 ]
