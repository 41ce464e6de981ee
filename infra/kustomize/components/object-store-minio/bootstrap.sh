#!/bin/sh
# Buckets, users and their rights in MinIO. Safe to run again.
set -eu

endpoint=http://object-store:9000

# Keys go through standard input: command lines can be read by others.
user=$(cat /secrets/root/root-user)
password=$(cat /secrets/root/root-password)
until printf '%s\n%s\n' "$user" "$password" | mc alias set store "$endpoint" >/dev/null 2>&1; do
  echo "waiting for $endpoint"
  sleep 3
done

for bucket in platecrypt mlflow backups; do
  mc mb --ignore-existing "store/$bucket"
  # What is overwritten or deleted by mistake stays for a while.
  mc version enable "store/$bucket"
done
# Adding the same rule twice is refused, so the old rules go first.
mc ilm rule rm --all --force store/backups >/dev/null 2>&1 || true
mc ilm rule add --expire-days 30 --noncurrent-expire-days 1 store/backups
for bucket in platecrypt mlflow; do
  mc ilm rule rm --all --force "store/$bucket" >/dev/null 2>&1 || true
  mc ilm rule add --noncurrent-expire-days 30 "store/$bucket"
done

for user in plates mlflow backup; do
  printf '%s\n%s\n' "$user" "$(cat "/secrets/users/$user")" | mc admin user add store
  mc admin policy create store "$user" "/bootstrap/$user.json"
  # Attaching what is attached is an error to mc, not to us.
  answer=$(mc admin policy attach store "$user" --user "$user" 2>&1) ||
    case $answer in
      *"already in effect"*) ;;
      *)
        echo "$answer" >&2
        exit 1
        ;;
    esac
done
echo "buckets and users are there"
