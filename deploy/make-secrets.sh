#!/usr/bin/env bash
# Make .env and the files with secrets that docker-compose.yaml needs. Keeps whatever is there.
#
# usage: deploy/make-secrets.sh [ENV_FILE]      (default .env; needs openssl)
set -euo pipefail
cd "$(dirname "$0")/.."
umask 077
env_file=${1:-.env}

say() { printf 'make-secrets: %s\n' "$*"; }

# --- .env ------------------------------------------------------------------------------------

set_in_env() { # name value
  sed -i "s|^$1=.*|$1=$2|" "$env_file"
}

get_from_env() { # name default
  local line
  line=$(grep -E "^$1=" "$env_file" | tail -n 1) || true
  if [[ -n $line ]]; then printf '%s' "${line#*=}"; else printf '%s' "$2"; fi
}

if [[ ! -e $env_file ]]; then
  cp .env.example "$env_file"
  chmod 644 "$env_file"
  if [[ $(id -u) -ne 0 ]]; then
    set_in_env TOUCHSTONE_UID "$(id -u)"
    set_in_env TOUCHSTONE_GID "$(id -g)"
  fi
  if [[ ${DOCKER_HOST:-} == unix://* ]]; then
    set_in_env TOUCHSTONE_DOCKER_SOCKET "${DOCKER_HOST#unix://}"
  fi
  root=$(docker info --format '{{.DockerRootDir}}' 2> /dev/null) || root=
  project=$(get_from_env COMPOSE_PROJECT_NAME touchstone)
  set_in_env TOUCHSTONE_AGENT_DIR "${root:-/var/lib/docker}/volumes/${project}_agent/_data"
  say "$env_file made"
fi
uid=$(get_from_env TOUCHSTONE_UID 50000)
gid=$(get_from_env TOUCHSTONE_GID 50000)
folder=$(get_from_env TOUCHSTONE_SECRETS_DIR ./deploy/secrets)
endpoint=$(get_from_env TOUCHSTONE_AWS_ENDPOINT_URL '')
region=$(get_from_env TOUCHSTONE_AWS_REGION us-east-1)
if [[ $uid -eq 0 ]]; then
  say "TOUCHSTONE_UID in $env_file is 0: the containers are not to run as root" >&2
  exit 1
fi

# --- secrets -----------------------------------------------------------------------------------

mkdir -p "$folder"
chmod 700 "$folder"
count() { find "$folder" -type f | wc -l; }
before=$(count)

# Readable by the group, because PostgreSQL and Redis have users of their own and share only that;
# the folder keeps everybody else on this machine out.
keep() { # name [mode], content on standard input
  local path=$folder/$1
  if [[ ! -s $path ]]; then
    cat > "$path.new"
    mv "$path.new" "$path"
  else
    cat > /dev/null
  fi
  chmod "${2:-640}" "$path"
  if [[ $(id -u) -eq 0 ]]; then chown "$uid:$gid" "$path"; fi
}

read_secret() { cat "$folder/$1"; }
random_word() { openssl rand -hex "${1:-24}" | tr -d '\n'; }

# Base64 of the 32 raw bytes, which end the DER forms of both.
make_key_pair() { # private file, public file
  local key
  key=$(openssl genpkey -algorithm ed25519)
  openssl pkey -outform DER <<< "$key" | tail -c 32 | openssl base64 -A | keep "$1" 600
  # The public key of the file that is there, should the private one be older than this run.
  { printf '302e020100300506032b657004220420'
    openssl base64 -d -A -in "$folder/$1" | od -An -v -tx1 | tr -d ' \n'
  } | from_hex | openssl pkey -inform DER -pubout -outform DER |
    tail -c 32 | openssl base64 -A | keep "$2"
}

from_hex() {
  local hex
  hex=$(cat)
  # shellcheck disable=SC2059
  printf "$(sed 's/../\\x&/g' <<< "$hex")"
}

for name in postgres_password airflow_database_password mlflow_database_password redis_password \
  api_secret_key stores_secret_key; do
  random_word | keep "$name"
done
# Tokens are signed with SHA-512, which wants 64 bytes.
random_word 48 | keep jwt_secret
openssl rand -base64 32 | tr '+/' '-_' | tr -d '\n' | keep fernet_key
printf 'touchstone-%s' "$(openssl rand -hex 4)" | keep stores_access_key
make_key_pair control_private_key control_public_key
make_key_pair agent_private_key agent_public_key

# What follows only says the above in the form in which one part reads it.
database_password=$(read_secret airflow_database_password)
printf 'postgresql+psycopg2://airflow:%s@postgres/airflow' "$database_password" |
  keep airflow_database_url
# libpq ignores a password file that others can read.
printf 'postgres:5432:mlflow:mlflow:%s\n' "$(read_secret mlflow_database_password)" |
  keep mlflow_pgpass 600
redis_password=$(read_secret redis_password)
printf 'requirepass %s\n' "$redis_password" | keep redis.conf
printf 'redis://:%s@redis:6379/0' "$redis_password" | keep celery_broker_url
printf 'redis://:%s@redis:6379/1' "$redis_password" | keep celery_result_backend
printf '{"admin": "%s", "engineer": "%s"}\n' "$(openssl rand -hex 9)" "$(openssl rand -hex 9)" |
  keep airflow_passwords.json
access_key=$(read_secret stores_access_key) secret_key=$(read_secret stores_secret_key)
printf '[default]\naws_access_key_id = touchstone-agent\naws_secret_access_key = %s\n' "$secret_key" |
  keep agent_aws_credentials 600

if [[ -n $endpoint ]]; then
  aws=$(printf '{"conn_type": "aws", "login": "%s", "password": "%s", "extra": {"endpoint_url": "%s", "region_name": "%s"}}' \
    "$access_key" "$secret_key" "$endpoint" "$region")
else
  # Without a key AWS's own chain is asked, which ends at the role of the machine.
  aws=$(printf '{"conn_type": "aws", "extra": {"region_name": "%s"}}' "$region")
fi
cat << END | keep airflow_connections.json
{
  "touchstone_aws": $aws,
  "touchstone_agent": {"conn_type": "touchstone_agent", "login": "control", "password": "$(read_secret control_private_key)"},
  "touchstone_mlflow": {"conn_type": "http", "schema": "http", "host": "mlflow", "port": 5000}
}
END
say "$folder holds $(count) files, $(($(count) - before)) of them new"
