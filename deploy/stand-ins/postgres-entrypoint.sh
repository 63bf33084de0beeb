#!/bin/bash
# The part of the official image's entry point that the compose file uses: a first start makes a
# cluster with a password for the superuser and runs the scripts of /docker-entrypoint-initdb.d.
set -euo pipefail
if [[ $(id -u) -eq 0 ]]; then
  echo "postgres stand-in: run it as a user, not as root" >&2
  exit 1
fi
if [[ ! -s $PGDATA/PG_VERSION ]]; then
  # What a broken first start has left would keep initdb from starting over.
  find "$PGDATA" -mindepth 1 -delete
  initdb --username="${POSTGRES_USER:-postgres}" --pwfile="$POSTGRES_PASSWORD_FILE" \
    --auth-local=trust --auth-host=scram-sha-256
  echo 'host all all all scram-sha-256' >> "$PGDATA/pg_hba.conf"
  # Not heard on the network before it is complete.
  pg_ctl --wait --options="-c listen_addresses=''" start
  for script in /docker-entrypoint-initdb.d/*.sql; do
    [[ -e $script ]] || continue
    psql -v ON_ERROR_STOP=1 --no-psqlrc --username="${POSTGRES_USER:-postgres}" --dbname=postgres \
      --file="$script" || { pg_ctl --mode=immediate stop; find "$PGDATA" -mindepth 1 -delete; exit 1; }
  done
  pg_ctl --wait --mode=fast stop
fi
exec "$@" -c listen_addresses='*'
