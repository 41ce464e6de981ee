#!/bin/sh
# Starts MLflow's server, with secrets from files where a variable X_FILE names one.
#
# Usual settings, MLflow's own: MLFLOW_BACKEND_STORE_URI (postgresql://mlflow@HOST:5432/mlflow, the
# password in PGPASSWORD), MLFLOW_ARTIFACTS_DESTINATION (s3://BUCKET/PREFIX),
# MLFLOW_S3_ENDPOINT_URL, AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.
set -eu

for name in PGPASSWORD AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY; do
    file=$(printenv "${name}_FILE" || true)
    if [ -n "$file" ]; then
        # A file that cannot be read ends it here, by its name.
        value=$(cat "$file")
        export "$name=$value"
    fi
done
exec mlflow server --host 0.0.0.0 --port 5000 --workers "${MLFLOW_WORKERS:-1}" "$@"
