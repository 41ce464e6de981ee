"""Building feature rows: each image is measured once, its row is kept in the object store."""

import hashlib
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from platecrypt.datasets.manifest import ImageRecord, Manifest
from platecrypt.features.layout import CAMERA_PREFIX, QUALITY_PREFIX, UNDATED
from platecrypt.features.quality import measure
from platecrypt.storage import ObjectStore

if TYPE_CHECKING:
    import pandas as pd

# Increase it when `measure` changes what it returns: rows of other versions are measured again.
VERSION = 1
WORKERS = 4
# How a camera is treated until somebody writes it a profile of its own.
DEFAULT_PROFILE = {"confidence": 0.25, "margin": 0.08, "policy": "protect"}


def build(
    store: ObjectStore,
    manifest: Manifest,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> "pd.DataFrame":
    """The feature rows of a dataset, one an image, sorted by image id.

    Images whose row is in the store already (same bytes, same labels, same version) are not
    measured again; new rows are added to the store as one more parquet file, and the profiles of
    the cameras are written anew.
    """
    import pandas as pd

    known = {(row["image_id"], row["labels"]): row for row in _stored_rows(store)}
    missing = [image for image in manifest.images if _identity(image) not in known]
    fresh = _measure_all(store, missing, progress)
    if fresh:
        _write(store, QUALITY_PREFIX, pd.DataFrame(fresh))
    known.update({(row["image_id"], row["labels"]): row for row in fresh})
    rows = pd.DataFrame([known[_identity(image)] for image in manifest.images])
    rows = rows.sort_values("image_id", ignore_index=True)
    if fresh:
        _write(store, CAMERA_PREFIX, _profiles(rows))
    return rows


def event_time(image: ImageRecord) -> datetime:
    """When an image was taken, UTC; UNDATED where nothing says so."""
    return datetime.fromisoformat(image.time or UNDATED).astimezone(UTC)


def to_parquet(rows: "pd.DataFrame") -> bytes:
    """A table as parquet; timestamps in microseconds, UTC."""
    buffer = io.BytesIO()
    rows.to_parquet(buffer, index=False, coerce_timestamps="us")
    return buffer.getvalue()


def _identity(image: ImageRecord) -> tuple[str, str]:
    """What a feature row depends on: the bytes of the image and its labels."""
    labels = repr([plate.box for plate in image.plates])
    return image.image_id, hashlib.sha256(labels.encode()).hexdigest()[:16]


def _stored_rows(store: ObjectStore) -> Iterable[dict[str, Any]]:
    import pandas as pd

    for found in store.list(QUALITY_PREFIX):
        rows = pd.read_parquet(io.BytesIO(store.get(found.key)))
        yield from rows[rows["version"] == VERSION].to_dict("records")


def _measure_all(
    store: ObjectStore,
    images: Sequence[ImageRecord],
    progress: Callable[[int, int], None] | None,
) -> list[dict[str, Any]]:
    now = datetime.now(UTC)

    def row(image: ImageRecord) -> dict[str, Any]:
        quality = measure(store.get(image.key), image)
        return {
            "image_id": image.image_id,
            "camera_id": image.camera,
            "event_timestamp": event_time(image),
            "created_timestamp": now,
            "version": VERSION,
            "labels": _identity(image)[1],
            "width": image.width,
            "height": image.height,
            **asdict(quality),
        }

    rows = []
    with ThreadPoolExecutor(WORKERS) as pool:
        for done, made in enumerate(pool.map(row, images), start=1):
            rows.append(made)
            if progress:
                progress(done, len(images))
    return rows


def _profiles(rows: "pd.DataFrame") -> "pd.DataFrame":
    import pandas as pd

    groups = rows.groupby("camera_id")
    profiles = pd.DataFrame(
        {
            "event_timestamp": groups["event_timestamp"].max(),
            "mean_brightness": groups["brightness"].mean(),
            "images": groups.size(),
        }
    ).reset_index()
    for name, value in DEFAULT_PROFILE.items():
        profiles[name] = value
    profiles["created_timestamp"] = datetime.now(UTC)
    return profiles


def _write(store: ObjectStore, prefix: str, rows: "pd.DataFrame") -> None:
    data = to_parquet(rows)
    store.put(f"{prefix}{hashlib.sha256(data).hexdigest()}.parquet", data)
