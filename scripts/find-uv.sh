#!/bin/sh
# Print the path of a uv that fits: the repository's own, else one on PATH of the same series.
set -eu
version=0.13.9
cd "$(dirname "$0")/.."

fits() {
  case "$("$1" --version 2>/dev/null)" in
    "uv ${version%.*}."*) return 0 ;;
    *) return 1 ;;
  esac
}

for candidate in .tools/bin/uv "$(command -v uv || true)"; do
  if [ -n "$candidate" ] && [ -x "$candidate" ] && fits "$candidate"; then
    case "$candidate" in
      /*) echo "$candidate" ;;
      *) echo "$PWD/$candidate" ;;
    esac
    exit 0
  fi
done
echo "find-uv: no uv ${version%.*}.x in .tools or on PATH: run \`make setup\`" >&2
exit 1
