"""Images: pinned, and where they are ours, ones that a Dockerfile of this repository builds."""

import re
from collections.abc import Iterator
from pathlib import Path

from platecrypt.manifests.model import Finding, ManifestSet, walk
from platecrypt.manifests.model import Path as FieldPath

RULE = "image"
FOLDERS = ("components/images", "kserve/images", "infra/images")
OURS = re.compile(r"(?:^|/)(platecrypt|python)-|(?:^|/)platecrypt(/|:|@|$)")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
REFERENCE = re.compile(
    r"(?P<name>[a-z0-9][a-z0-9._:-]*(?:/[a-z0-9][a-z0-9._-]*)*?)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}))?(?:@(?P<digest>\S+))?"
)
TITLE = re.compile(r'org\.opencontainers\.image\.title="?([a-z0-9-]+)')
MOVING = ("latest", "main", "master", "edge", "nightly", "dev", "stable")
# Where an image stands that is no container's.
FIELDS = ("image", "imageName", "base_image")


def images_built(root: Path) -> frozenset[str]:
    """The names of the images that the Dockerfiles below a folder build.

    A Dockerfile says its name in the label `org.opencontainers.image.title`; without one it is
    `platecrypt-FOLDER`.
    """
    found = set()
    for folder in FOLDERS:
        for file in (root / folder).glob("*/Dockerfile"):
            titles = TITLE.findall(file.read_text())
            found.add(titles[-1] if titles else f"platecrypt-{file.parent.name}")
    return frozenset(found)


def images(group: ManifestSet, built: frozenset[str]) -> Iterator[Finding]:
    """Images without a tag, with one that moves, or that nobody builds."""
    for item in group.objects:
        if item.kind == "CustomResourceDefinition":
            continue
        for path, value in walk(item.document):
            if path and path[-1] in FIELDS and isinstance(value, str) and _names_image(path):
                for message in image_problems(value, built):
                    yield item.finding(path, RULE, message)


def image_problems(image: str, built: frozenset[str]) -> Iterator[str]:
    """What is wrong with the name of an image."""
    found = REFERENCE.fullmatch(image)
    if found is None:
        yield f"{image!r} is no name of an image"
        return
    name, tag, digest = found["name"], found["tag"], found["digest"]
    if digest and not DIGEST.fullmatch(digest):
        yield f"{image!r}: its digest is no sha256"
    elif not tag and not digest:
        yield f"{image!r} has no tag, which is latest; pin a version or a digest"
    elif tag in MOVING and not digest:
        yield f"{image!r}: {tag} moves; pin a version or a digest"
    last = name.rpartition("/")[2]
    if OURS.search(name) and last not in built:
        known = ", ".join(sorted(built)) or "none"
        yield f"{image!r}: no Dockerfile here builds {last}; there are {known}"


def _names_image(path: FieldPath) -> bool:
    # `volumes[].image` is a mapping; annotations and labels may say what they like.
    return "annotations" not in path and "labels" not in path
