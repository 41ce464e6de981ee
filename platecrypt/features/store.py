"""The feature store: the definitions of `feature_repo/`, registered, materialised and joined."""

import contextlib
import importlib
import io
import os
import string
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platecrypt.errors import BadInputError
from platecrypt.features.layout import SERVING_SERVICE, TRAINING_SERVICE, UNDATED
from platecrypt.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

CameraLookUp = Callable[[str], dict[str, Any]]


class FeatureRepository:
    """One Feast project, opened with the settings in force."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = (settings.root / "feature_repo").absolute()
        store = settings.store()
        # Feast has no argument for these: its readers (s3fs, Arrow) take them from here alone.
        os.environ.update(
            AWS_ACCESS_KEY_ID=store.access_key,
            AWS_SECRET_ACCESS_KEY=store.secret_key,
            AWS_DEFAULT_REGION=store.region,
            FEAST_USAGE="False",
        )
        from feast import FeatureStore

        self._store = FeatureStore(config=_repo_config(self._folder, settings))

    def register(self) -> None:
        """Write the definitions into the registry."""
        with _quiet(), _environment(self._settings.as_environment()):
            self._store.apply(_definitions(self._folder))

    def materialise(self) -> None:
        """Bring the newest row of every entity online (rows dated in the future are left out).

        The end is the present, never later: a future end would make Feast skip rows that arrive
        before it.
        """
        start = datetime.fromisoformat(UNDATED).astimezone(UTC).replace(year=1999)
        with _quiet():
            self._store.materialize(start_date=start, end_date=datetime.now(UTC))

    def training_features(
        self, image_ids: Sequence[str], label_times: Sequence[datetime]
    ) -> "pd.DataFrame":
        """Features as they were known when each image was labelled (point-in-time join).

        Returns one row an image, in the order given; features that were not known yet are NaN,
        whatever the offline store makes of such an image (some leave it out).
        """
        import pandas as pd

        entities = pd.DataFrame(
            {"image_id": list(image_ids), "event_timestamp": pd.to_datetime(list(label_times))}
        )
        with _quiet():
            service = self._store.get_feature_service(TRAINING_SERVICE)
            found = self._store.get_historical_features(entities, service).to_df()
        asked = entities[["image_id"]]
        return asked.merge(found.drop_duplicates("image_id"), on="image_id", how="left")

    def camera_profile(self, camera_id: str) -> dict[str, Any]:
        """The online profile of a camera; values are None where it has none."""
        service = self._store.get_feature_service(SERVING_SERVICE)
        found = self._store.get_online_features(service, [{"camera_id": camera_id}]).to_dict()
        return {name: values[0] for name, values in found.items() if name != "camera_id"}


def open_online(folder: Path, environment: Mapping[str, str] = os.environ) -> CameraLookUp:
    """Open the online store alone, as the endpoint needs it: no object store, no offline store.

    Args:
        folder: of the repository; its `feature_store.yaml` names `FEAST_REGISTRY` and
            `FEAST_ONLINE_STORE`.
        environment: where these two are found.

    Returns:
        A function from a camera id to its profile; values are None where it has none.

    Raises:
        BadInputError: there is no repository, or one of the two is not set.
    """
    names = ("FEAST_REGISTRY", "FEAST_ONLINE_STORE")
    missing = [name for name in names if not environment.get(name)]
    if missing:
        raise BadInputError(f"{missing[0]} is not set; it says where the feature store is")
    from feast import FeatureStore

    store = FeatureStore(config=_read_config(folder, {name: environment[name] for name in names}))
    service = store.get_feature_service(SERVING_SERVICE)

    def look_up(camera_id: str) -> dict[str, Any]:
        found = store.get_online_features(service, [{"camera_id": camera_id}]).to_dict()
        return {name: values[0] for name, values in found.items() if name != "camera_id"}

    return look_up


def _repo_config(folder: Path, settings: Settings) -> Any:
    home = (settings.home / "feast").absolute()
    home.mkdir(parents=True, exist_ok=True)
    values = {
        "FEAST_REGISTRY": settings.feast_registry or str(home / "registry.db"),
        "FEAST_ONLINE_STORE": settings.feast_online_store or str(home / "online.db"),
    }
    return _read_config(folder, values, settings.feast_config)


def _read_config(folder: Path, values: Mapping[str, str], file: str = "") -> Any:
    import yaml
    from feast.repo_config import RepoConfig

    path = Path(file) if file else folder / "feature_store.yaml"
    try:
        text = path.read_text()
    except OSError as error:
        raise BadInputError(
            f"{path}: {error.strerror}; run inside the checkout, or set PLATECRYPT_ROOT or "
            "PLATECRYPT_FEAST_CONFIG"
        ) from None
    return RepoConfig(**yaml.safe_load(string.Template(text).substitute(values)), repo_path=folder)


def _definitions(folder: Path) -> list[Any]:
    """Everything that the modules of the repository define, as the Feast command would find it."""
    from feast import Entity, FeatureService, FeatureView
    from feast.data_source import DataSource
    from feast.on_demand_feature_view import OnDemandFeatureView

    kinds = (DataSource, Entity, FeatureView, OnDemandFeatureView, FeatureService)
    names = sorted(path.stem for path in folder.glob("*.py"))
    found: dict[int, Any] = {}
    # Its modules import each other by bare names, which is how `feast apply` runs them.
    sys.path.insert(0, str(folder))
    try:
        for name in names:
            module = importlib.import_module(name)
            found.update({id(v): v for v in vars(module).values() if isinstance(v, kinds)})
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
    return list(found.values())


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Let the definitions, which read the settings themselves, read the ones in force."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's banners and bars off the output of a step."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
