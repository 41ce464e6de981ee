#!/bin/sh
# Buckets in SeaweedFS; its users come from a file. Safe to run again.
set -eu

endpoint=http://object-store:9000

user=$(cat /secrets/root/root-user)
password=$(cat /secrets/root/root-password)
until printf '%s\n%s\n' "$user" "$password" | mc alias set store "$endpoint" >/dev/null 2>&1; do
  echo "waiting for $endpoint"
  sleep 3
done
for bucket in platecrypt mlflow backups; do
  mc mb --ignore-existing "store/$bucket"
  mc version enable "store/$bucket"
done
echo "buckets are there"
