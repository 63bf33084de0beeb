#!/usr/bin/env bash
# Have the official images that docker-compose.yaml names, also where no registry answers.
#
# An image that is there is used; else it is pulled; else a stand-in of the same major version is
# built from Debian's packages under the same tag. Not for production: Debian's patches are then
# yours to follow.
#
# usage: scripts/make-compose-images.sh      (as root when the base image has to be made)
set -euo pipefail
cd "$(dirname "$0")/.."
postgres=${TOUCHSTONE_POSTGRES_IMAGE:-postgres:15-bookworm}
redis=${TOUCHSTONE_REDIS_IMAGE:-redis:7.2-bookworm}
base=debian:bookworm-slim

is_here() { docker image inspect "$1" > /dev/null 2>&1; }

pull() {
  timeout "${PULL_SECONDS:-120}" docker pull --quiet "$1" > /dev/null 2>&1
}

build_stand_in() { # name tag
  echo "make-compose-images: $2 cannot be pulled; building a stand-in from Debian's packages"
  docker build --quiet --network host --tag "$2" \
    --file "deploy/stand-ins/$1.Dockerfile" deploy/stand-ins
}

is_here "$base" || pull "$base" || scripts/make-base-image.sh "$base"
for pair in "postgres $postgres" "redis $redis"; do
  read -r name tag <<< "$pair"
  is_here "$tag" || pull "$tag" || build_stand_in "$name" "$tag"
done
