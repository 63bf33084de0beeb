#!/bin/sh
# Presigned requests are verified: the emulator must know the key that the control plane signs with.
# It takes that from its environment only, so it is put there here and not in the compose file.
set -eu
AWS_ACCESS_KEY_ID=$(cat /run/secrets/stores_access_key)
AWS_SECRET_ACCESS_KEY=$(cat /run/secrets/stores_secret_key)
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY
exec /opt/ministack/venv/bin/python -m ministack
