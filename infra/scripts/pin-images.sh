#!/usr/bin/env bash
# Writes image digests into the `images:` of a kustomization and leaves everything else as it is.
#
#   pin-images.sh KUSTOMIZATION < LINES      a line: NAME NEW_NAME sha256:DIGEST
#
# NAME is the name in the manifests, NEW_NAME where the image is. Every NAME must stand in the file.
set -euo pipefail

file=${1:?usage: pin-images.sh KUSTOMIZATION < LINES}
while read -r name image digest; do
    [[ $digest =~ ^sha256:[0-9a-f]{64}$ ]] || {
        echo "pin-images: '$digest' is no digest of $name (sha256:…)" >&2
        exit 2
    }
    # An entry is its `- name:` line and the lines below it that are further in.
    awk -v name="$name" -v image="$image" -v digest="$digest" '
        /^ *- name: / && $3 == name {
            match($0, /^ */); indent = RLENGTH; skipping = 1; found = 1
            print
            printf "%*s  newName: %s\n%*s  digest: %s\n", indent, "", image, indent, "", digest
            next
        }
        /^ *#/ { print; next }
        skipping && match($0, /^ */) && RLENGTH > indent { next }
        { skipping = 0; print }
        END { exit !found }
    ' "$file" >"$file.new" || {
        rm -f "$file.new"
        echo "pin-images: $file has no image $name" >&2
        exit 2
    }
    mv "$file.new" "$file"
done
