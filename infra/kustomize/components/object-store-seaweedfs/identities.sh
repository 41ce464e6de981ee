#!/bin/sh
# Writes SeaweedFS's file of users: the root for the bootstrap, and one a bucket with that bucket's rights.
set -eu

identity() { # name, secret key, actions
  printf '{"name":"%s","credentials":[{"accessKey":"%s","secretKey":"%s"}],"actions":[%s]}' \
    "$1" "$1" "$2" "$3"
}

read_write() { # bucket
  printf '"Read:%s","Write:%s","List:%s","Tagging:%s"' "$1" "$1" "$1" "$1"
}

umask 077
{
  printf '{"identities":['
  identity "$(cat /secrets/root/root-user)" "$(cat /secrets/root/root-password)" '"Admin"'
  printf ','
  identity plates "$(cat /secrets/users/plates)" "$(read_write platecrypt)"
  printf ','
  identity mlflow "$(cat /secrets/users/mlflow)" "$(read_write mlflow)"
  printf ','
  identity backup "$(cat /secrets/users/backup)" "$(read_write backups)"
  printf ']}'
} > /identities/s3.json
