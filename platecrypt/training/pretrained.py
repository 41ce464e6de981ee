"""Published weights to start from: a file that is at hand, else one bounded try to fetch it."""

import contextlib
import hashlib
import http.client
import logging
import os
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

# The release that ultralytics 8.4 itself names for its weights.
RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.4.0"
CONNECT_S = 5.0
LARGEST = 200 * 1024 * 1024
SMALLEST = 1024 * 1024

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pretrained:
    """Weights on disk: the file and its SHA-256, hexadecimal."""

    path: Path
    digest: str


def find_pretrained(model: str, cache_dir: Path, *, base_url: str = RELEASE) -> Pretrained | None:
    """Weights of that model from `cache_dir`, fetched there once where there is a network.

    A failed try is remembered for the life of `cache_dir`'s marker file, so that an offline
    machine waits for it once and not in every trial.

    Args:
        model: "yolov8n", "yolov8s" or "yolov8m".
        cache_dir: where `<model>.pt` lies or is put; a user may put one there.
        base_url: the folder on the web that holds `<model>.pt`.

    Returns:
        The weights, or None where they cannot be had: the log says why.
    """
    path = cache_dir / f"{model}.pt"
    marker = cache_dir / f"{model}.unavailable"
    if not path.is_file():
        if marker.exists():
            logger.warning("%s: %s", model, marker.read_text())
            return None
        cache_dir.mkdir(parents=True, exist_ok=True)
        try:
            _fetch(f"{base_url}/{model}.pt", path)
        except (OSError, http.client.HTTPException) as error:
            why = (
                f"published weights cannot be had ({error}); training starts from scratch. "
                f"Put the file at {path} to start from them, or remove {marker} to try again"
            )
            marker.write_text(why)
            logger.warning("%s: %s", model, why)
            return None
    return at(path)


def at(path: Path) -> Pretrained:
    """Weights that lie on this machine."""
    return Pretrained(path, hashlib.sha256(path.read_bytes()).hexdigest())


def _fetch(url: str, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with urllib.request.urlopen(url, timeout=CONNECT_S) as answer:  # noqa: S310 - https above
            data = answer.read(LARGEST + 1)
        if not SMALLEST <= len(data) <= LARGEST:
            raise OSError(f"{url} answered {len(data)} bytes, which are no weights")
        temporary.write_bytes(data)
        temporary.replace(path)
    except urllib.error.HTTPError as error:
        raise OSError(f"{url} answered {error.code}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{url}: {error.reason}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
