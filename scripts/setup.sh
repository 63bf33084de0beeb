#!/bin/sh
# Install everything a checkout needs, from Python and git alone. Does nothing when up to date.
set -eu
uv_version=0.13.9
cd "$(dirname "$0")/.."

find_python() {
  for name in python3.11 python3.12 python3; do
    if command -v "$name" > /dev/null 2>&1 &&
      "$name" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2> /dev/null; then
      command -v "$name"
      return 0
    fi
  done
  return 1
}

bootstrap_uv() {
  python=$(find_python) || {
    echo "setup: no Python 3.11 or 3.12 found: install one, and put it on PATH" >&2
    exit 1
  }
  # Debian ships Python without the part that makes virtual environments.
  if ! "$python" -c 'import ensurepip, venv' 2> /dev/null; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get > /dev/null; then
      echo "setup: installing python3-venv"
      apt-get update -qq
      DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        python3-venv > /dev/null
    else
      echo "setup: $python cannot make virtual environments: install the package python3-venv" \
        "(or uv $uv_version itself) and run this again" >&2
      exit 1
    fi
  fi
  echo "setup: installing uv $uv_version into .tools"
  rm -rf .tools
  "$python" -m venv .tools
  .tools/bin/pip install --quiet --disable-pip-version-check "uv==$uv_version"
}

if ! uv=$(scripts/find-uv.sh 2> /dev/null); then
  bootstrap_uv
  uv=$(scripts/find-uv.sh)
fi

# A Python that is here is used; only if none fits does uv fetch one.
export UV_PYTHON_PREFERENCE=system
# Whoever calls this from inside another environment means this repository's all the same.
unset VIRTUAL_ENV UV_PROJECT_ENVIRONMENT
# A trainer writes no bytecode, wherever it runs: without this, each one compiles Keras and JAX anew
# from their sources, which takes longer than a validation. Airflow's processes begin sooner as well.
export UV_COMPILE_BYTECODE=1
"$uv" sync --frozen --quiet
# MiniStack pins its own botocore; the trainer and the judge have nothing in common with Airflow.
UV_PROJECT_ENVIRONMENT="$PWD/.venv-emulator" "$uv" sync --frozen --quiet --only-group emulator
"$uv" sync --frozen --quiet --project include/elnigma
"$uv" sync --frozen --quiet --project judge
echo "setup: up to date"
