#!/usr/bin/env bash
# Builds the container images with docker, podman or buildah, whichever is there, and prints what
# each takes installed. A serving image above the limit is refused.
#
#   build-images.sh [NAME...]    all of them, or e.g. `predictor transformer`
#
# From the environment:
#   REGISTRY           prefix of the names, e.g. registry.example/team (default: none)
#   TAG                default: the version in pyproject.toml
#   BUILDER            docker, podman or buildah (default: the first that works)
#   BUILD_ARGS         more arguments of the build, e.g. '--build-arg BASE_DIGEST=sha256:…'
#   PIP_INDEX_URL, PIP_EXTRA_INDEX_URL   where packages come from
set -euo pipefail
cd "$(dirname "$0")/../.."

# What a serving image may take, in 10^6 bytes.
LIMIT_MB=900

die() {
    echo "images: $*" >&2
    exit 2
}

find_builder() {
    local tool
    for tool in docker podman buildah; do
        # A docker client without a daemon is of no use.
        if command -v "$tool" >/dev/null && "$tool" info >/dev/null 2>&1; then
            echo "$tool"
            return
        fi
    done
    die "docker, podman or buildah is needed, and none of them works here"
}

# installed_mb IMAGE: what its files take, in 10^6 bytes, whatever the builder calls a size.
installed_mb() {
    local container size
    case $builder in
        buildah)
            container=$(buildah from "$1")
            size=$(buildah run --user 0 "$container" -- du -sx --apparent-size --block-size=1000000 /)
            buildah rm "$container" >/dev/null
            ;;
        *)
            size=$("$builder" run --rm --network none --user 0 --entrypoint du "$1" \
                -sx --apparent-size --block-size=1000000 /)
            ;;
    esac
    echo "${size%%[[:space:]]*}"
}

builder=${BUILDER:-$(find_builder)}
tag=${TAG:-$(sed -n 's/^version = "\(.*\)"$/\1/p' pyproject.toml)}
[[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ && $tag != latest ]] \
    || die "TAG is '$tag'; a tag names one version, e.g. 1.2.0 (and never 'latest')"
arguments=(
    --build-arg "VERSION=$tag"
    --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
    --build-arg "CREATED=$(date -u +%Y-%m-%dT%H:%M:%SZ)"
)
for variable in PIP_INDEX_URL PIP_EXTRA_INDEX_URL; do
    [[ -z ${!variable:-} ]] || arguments+=(--build-arg "$variable=${!variable}")
done
# A health check is no part of the OCI form.
[[ $builder == docker ]] || arguments+=(--format docker)
read -ra more <<<"${BUILD_ARGS:-}"

shopt -s nullglob
files=({components,kserve,infra}/images/*/Dockerfile)
known=" $(printf '%s ' "${files[@]}" | sed -E 's#[^ ]*/images/([^/]+)/Dockerfile#\1#g')"
wanted=" $* "
for name in "$@"; do
    [[ $known == *" $name "* ]] || die "there is no image '$name'; there are:$known"
done

too_large=()
printf '%-28s %s\n' image 'MB installed'
for file in "${files[@]}"; do
    name=$(basename "$(dirname "$file")")
    [[ $# -eq 0 || $wanted == *" $name "* ]] || continue
    image=${REGISTRY:+$REGISTRY/}platecrypt-$name:$tag
    "$builder" build "${arguments[@]}" "${more[@]}" --tag "$image" --file "$file" . >&2
    size=$(installed_mb "$image")
    printf '%-28s %s\n' "platecrypt-$name" "$size"
    [[ $file != kserve/* || $size -le $LIMIT_MB ]] || too_large+=("platecrypt-$name takes $size MB")
done
for finding in "${too_large[@]}"; do
    echo "images: $finding installed; a serving image may take $LIMIT_MB" >&2
done
[[ ${#too_large[@]} -eq 0 ]]
