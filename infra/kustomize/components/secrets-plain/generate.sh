#!/usr/bin/env bash
# Makes what is missing of the secret values in values/, readable by you alone; what is there stays.
set -euo pipefail
umask 077

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
platecrypt=${PLATECRYPT:-platecrypt}
[[ $platecrypt != */* ]] || platecrypt=$(realpath -s "$platecrypt")
mkdir -p "$here/values"
cd "$here/values"

password() { # file
  # Hexadecimal: such a password fits into a URL and into a configuration file as it is. No line end:
  # it would become part of the password.
  [[ -s $1 ]] || printf '%s' "$(od -An -N20 -tx1 /dev/urandom | tr -d ' \n')" > "$1"
}

[[ -s root-user ]] || printf 'root' > root-user
for name in root-password store-plates store-mlflow store-backup mlflow-postgres feast-postgres feast-redis tokens; do
  password "$name"
done
printf 'requirepass %s\n' "$(cat feast-redis)" > feast-redis.conf
[[ -s gate.key ]] || head -c 32 /dev/urandom > gate.key

if [[ ! -s keyring.json ]]; then
  command -v "$platecrypt" > /dev/null || {
    echo "platecrypt is not on the PATH; set PLATECRYPT to it, for instance .venv/bin/platecrypt" >&2
    exit 2
  }
  "$platecrypt" keys new keyring.json
fi
echo "the values are in $here/values; keep keyring.json somewhere safe as well: without it no plate comes back"
