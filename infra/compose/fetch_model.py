"""Write the champion's ONNX file into a folder: `fetch_model.py FOLDER`.

Runs in the image `platecrypt-deploy`, which has the library; MLflow says which model is the
champion, the object store has its file.
"""

import hashlib
import sys
from pathlib import Path

from platecrypt.settings import load
from platecrypt.storage import ObjectStore
from platecrypt.tracking import Tracker
from platecrypt.training.steps import model_key


def fetch(folder: Path) -> str:
    """Fetch it; returns its name and version."""
    settings = load()
    champion = Tracker(settings).champion()
    if champion is None:
        sys.exit(
            f"{settings.tracking_uri} has no champion of {settings.model_name}: run the pipeline"
        )
    data = ObjectStore(settings.store()).get(model_key(champion.model_digest))
    if hashlib.sha256(data).hexdigest() != champion.model_digest:
        sys.exit(f"the file of version {champion.version} is not the one that was registered")
    (folder / "model.onnx").write_bytes(data)
    return f"{champion.name} version {champion.version}"


if __name__ == "__main__":
    sys.stdout.write(f"{fetch(Path(sys.argv[1]))} is in {sys.argv[1]}\n")
