#!/usr/bin/env bash
# Make a base image from Debian packages, for machines that can pull none.
#
# It may carry the tag that a Dockerfile's FROM names, so that shipped Dockerfiles are built as they
# are. Packages come from wherever this machine's own apt gets them; the machine's CA bundle is
# copied in, so that builds behind a proxy with its own CA work.
#
# usage: scripts/make-base-image.sh [TAG]      (as root; default debian:bookworm-slim)
set -euo pipefail
tag=${1:-debian:bookworm-slim}
packages=ca-certificates,git,openssh-server,python3,python3-venv

if docker image inspect "$tag" > /dev/null 2>&1; then
  echo "make-base-image: $tag is there already"
  exit 0
fi
command -v debootstrap > /dev/null || {
  echo "make-base-image: install the package debootstrap first" >&2
  exit 1
}

# The first source of Debian's own packages, in either of the formats apt knows.
read -r suite mirror < <(
  apt-get indextargets --format '$(CODENAME) $(REPO_URI) $(LABEL)' 'Created-By: Packages' |
    awk '$3 == "Debian" && $1 !~ /-/ { print $1, $2; exit }'
) || {
  echo "make-base-image: apt knows no Debian source; run apt-get update" >&2
  exit 1
}
eval "$(apt-config shell http_proxy Acquire::http::Proxy https_proxy Acquire::https::Proxy)"
[[ -z ${http_proxy:-} ]] || export http_proxy
[[ -z ${https_proxy:-} ]] || export https_proxy

tree=$(mktemp -d /var/tmp/touchstone-base.XXXXXX)
trap 'rm -rf "$tree"' EXIT
echo "make-base-image: $tag from $suite"
debootstrap --variant=minbase "--include=$packages" "$suite" "$tree" "$mirror" > "$tree.log" 2>&1 || {
  tail -20 "$tree.log" >&2
  rm -f "$tree.log"
  exit 1
}
rm -f "$tree.log"
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}
if [[ -s $bundle ]]; then
  cp "$bundle" "$tree/etc/ssl/certs/ca-certificates.crt"
fi
# Installing sshd has made host keys, which nobody may ever trust.
rm -f "$tree"/etc/ssh/ssh_host_*
rm -rf "$tree"/var/cache/apt/archives/*.deb "$tree"/var/lib/apt/lists/*
# Device nodes are the engine's business, and need privileges to unpack.
tar -C "$tree" --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* -c . |
  docker import --change 'CMD ["bash"]' - "$tag" > /dev/null
echo "make-base-image: $tag made"
