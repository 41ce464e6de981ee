#!/usr/bin/env bash
# Runs checkov over Dockerfiles, workflows, Terraform and every rendered overlay.
#
#   checkov.sh [CHECKOV]     the program (default: the one on the path)
#
# checkov lives in an environment of its own: its dependencies and ours do not go together.
# A finding that stays has its reason beside it: `# checkov:skip=…` in the file, or the annotation
# `checkov.io/skip1` of an object.
set -euo pipefail
cd "$(dirname "$0")/../.."

checkov=${1:-checkov}
rendered=$(mktemp -d)
trap 'rm -rf "$rendered"' EXIT
for overlay in infra/kustomize/overlays/*/; do
    kubectl kustomize "$overlay" >"$rendered/$(basename "$overlay").yaml"
done
common=(--config-file .checkov.yaml)
"$checkov" "${common[@]}" --framework kubernetes --directory "$rendered"
"$checkov" "${common[@]}" --framework dockerfile github_actions terraform \
    --directory components/images --directory kserve/images --directory infra --directory .github
