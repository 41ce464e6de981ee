#!/usr/bin/env bash
# Makes the passwords that compose.yaml mounts, once; what is there stays. Nothing is printed.
set -euo pipefail
cd "$(dirname "$0")"

# The folder keeps other users out. The files are readable, because each container is somebody else.
install -d -m 0700 secrets
for name in store-root-user store-root-password store-plates store-mlflow store-backup postgres grafana; do
    [[ -s secrets/$name ]] && continue
    head -c 32 /dev/urandom | base64 | tr -dc 'A-Za-z0-9' | head -c 32 >"secrets/$name"
    chmod 0444 "secrets/$name"
done
printf 'KEYRING_OWNER=%s:%s\n' "$(id -u)" "$(id -g)" >.env
