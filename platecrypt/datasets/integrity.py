"""Whether the images of a manifest are still in the store, byte for byte."""

import hashlib
from concurrent.futures import ThreadPoolExecutor

from platecrypt.datasets.manifest import ImageRecord, Manifest
from platecrypt.storage import ObjectStore

WORKERS = 8


def images_are_intact(store: ObjectStore, manifest: Manifest) -> bool:
    """Read every image and compare its digest with its id; sizes are compared first."""
    sizes = {found.key: found.size for found in store.list("images/")}
    if any(sizes.get(image.key) != image.size for image in manifest.images):
        return False

    def intact(image: ImageRecord) -> bool:
        return hashlib.sha256(store.get(image.key)).hexdigest() == image.image_id

    with ThreadPoolExecutor(WORKERS) as pool:
        return all(pool.map(intact, manifest.images))
