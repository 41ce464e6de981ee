"""Settings: the one place that reads the environment and the configuration file.

Order, later wins: the defaults below, `platecrypt.toml` (or the file named by PLATECRYPT_CONFIG),
the environment (`PLATECRYPT_<NAME>`), the flags of a command. The result is frozen and handed
inwards; no room of the library reads the environment.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from platecrypt.errors import BadInputError

TOKEN_BYTES = 8192  # servers take no longer header
ENV_PREFIX = "PLATECRYPT_"
LOOPBACK = "127.0.0.1"
SECRET = ("s3_secret_key",)
Port = int


class StoreConfig(NamedTuple):
    """Where the objects live. `endpoint` is a URL; `embedded` says that we run the server."""

    endpoint: str
    access_key: str
    secret_key: str
    bucket: str
    region: str
    timeout_s: float
    embedded: bool


def _checkout() -> Path:
    """Where the definitions lie: here if they are here, else beside the library."""
    beside = Path(__file__).parents[1]
    return Path() if Path("kserve", "inference_service.yaml").exists() else beside


class Settings(BaseSettings):
    """Everything a deployment may set. Paths are relative to the working directory."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, frozen=True, extra="forbid")

    home: Path = Field(Path(".platecrypt"), description="state of the embedded engine")
    root: Path = Field(
        default_factory=_checkout, description="the checkout: katib/, kserve/, feature_repo/"
    )

    s3_endpoint: str | None = Field(None, description="URL of an S3; unset: the embedded one")
    s3_access_key: str | None = Field(None, description="access key of s3_endpoint")
    s3_secret_key: str | None = Field(None, description="secret key (prefer the file)")
    s3_secret_key_file: Path | None = Field(None, description="file that holds the secret key")
    s3_bucket: str = "platecrypt"
    s3_region: str = "us-east-1"
    s3_port: Port = Field(9000, ge=1, le=65535, description="port of the embedded S3")
    s3_timeout_s: float = Field(10.0, gt=0, description="how long one S3 call may wait, seconds")

    mlflow_tracking_uri: str | None = Field(None, description="unset: SQLite under home")
    mlflow_experiment: str = "plates"
    model_name: str = "plates"
    pipeline_run: str | None = Field(
        None, description="id of the pipeline run; every MLflow run that it makes is tagged with it"
    )

    feast_registry: str | None = Field(None, description="unset: a file under home")
    feast_online_store: str | None = Field(None, description="unset: SQLite under home")
    feast_config: str = Field(
        "", description="file instead of feature_repo/feature_store.yaml: Feast's clients elsewhere"
    )

    tuning_engine: Literal["local", "katib"] = Field("local", description="who runs the Experiment")
    experiment_patch: str = Field(
        "", description="JSON patch of the pipeline's Experiment, e.g. katib/experiment-gpu.yaml"
    )
    device_hour_price: float | None = Field(
        None, ge=0, description="of a device hour of tuning, in any currency; for forecasts"
    )
    deployment_engine: Literal["local", "kserve"] = Field(
        "local", description="who runs the service"
    )

    host: str = Field(LOOPBACK, description="address that the endpoint binds to")
    port: Port = Field(8080, ge=1, le=65535, description="port of the endpoint")
    grpc_port: Port | None = Field(
        None, ge=1, le=65535, description="gRPC port of the endpoint; unset: a free one"
    )
    camera_profiles: bool = Field(False, description="the endpoint looks cameras up in Feast")
    ready_timeout_s: float = Field(60.0, gt=0, description="how long a server may take to start")
    keys_file: Path | None = Field(None, description="the keyring; unset: home/keys/keyring.json")
    gate_key_file: Path | None = Field(None, description="key that signs verdicts; unset: home")

    endpoint_token_file: str = Field(
        "", description="file whose first line is a bearer token for the endpoint; empty: none"
    )

    kfp_host: str | None = Field(None, description="URL of Kubeflow Pipelines")
    kfp_namespace: str | None = Field(
        None, description="namespace of runs there; unset: the one of its client's context"
    )
    kfp_service_account: str | None = Field(
        None, description="account that runs have there; unset: the server's default"
    )
    kfp_token_file: Path | None = Field(None, description="file with a bearer token for kfp_host")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, then environment, then file; defaults last."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())

    @property
    def keyring_path(self) -> Path:
        """The keyring file that seals."""
        return self.keys_file or self.home / "keys" / "keyring.json"

    @property
    def gate_key_path(self) -> Path:
        """The key file that signs verdicts."""
        return self.gate_key_file or self.home / "keys" / "gate.key"

    @property
    def endpoint_token(self) -> str | None:
        """The bearer token to ask the endpoint with, or None.

        Raises:
            BadInputError: the file is missing, or its first line is no token.
        """
        if not self.endpoint_token_file:
            return None
        return read_token(Path(self.endpoint_token_file))

    @property
    def store_credentials_path(self) -> Path:
        """Generated credentials of the embedded S3 (JSON, 0600)."""
        return self.home / "s3" / "credentials.json"

    @property
    def s3_url(self) -> str:
        """URL of the S3 in force."""
        return self.s3_endpoint or f"http://{LOOPBACK}:{self.s3_port}"

    def store(self) -> StoreConfig:
        """The object store in force: the one that is set, else the embedded one.

        Raises:
            BadInputError: an endpoint without its keys, or the embedded one was never started.
        """
        if self.s3_endpoint is None:
            credentials = read_json(self.store_credentials_path, "start it with `platecrypt up`")
            return StoreConfig(
                endpoint=self.s3_url,
                access_key=credentials["access_key"],
                secret_key=credentials["secret_key"],
                bucket=self.s3_bucket,
                region=self.s3_region,
                timeout_s=self.s3_timeout_s,
                embedded=True,
            )
        secret = self.s3_secret_key
        if self.s3_secret_key_file is not None:
            try:
                secret = self.s3_secret_key_file.read_text().strip()
            except OSError as error:
                raise BadInputError(
                    f"{self.s3_secret_key_file}: {error.strerror}; PLATECRYPT_S3_SECRET_KEY_FILE "
                    "names the file with the secret key"
                ) from None
        if not self.s3_access_key or not secret:
            raise BadInputError(
                f"PLATECRYPT_S3_ENDPOINT is {self.s3_endpoint} but its keys are missing: set "
                "PLATECRYPT_S3_ACCESS_KEY and PLATECRYPT_S3_SECRET_KEY_FILE"
            )
        return StoreConfig(
            endpoint=self.s3_endpoint,
            access_key=self.s3_access_key,
            secret_key=secret,
            bucket=self.s3_bucket,
            region=self.s3_region,
            timeout_s=self.s3_timeout_s,
            embedded=False,
        )

    @property
    def tracking_uri(self) -> str:
        """The MLflow tracking URI in force."""
        return (
            self.mlflow_tracking_uri
            or f"sqlite:///{(self.home / 'mlflow' / 'mlflow.db').absolute()}"
        )

    def as_environment(self) -> dict[str, str]:
        """These settings as environment variables, for a child process (paths made absolute)."""
        env: dict[str, str] = {}
        for name, value in self:
            if value is None:
                continue
            text = str(value.absolute()) if isinstance(value, Path) else str(value)
            env[ENV_PREFIX + name.upper()] = text
        return env


def read_token(path: Path) -> str:
    """The bearer token in a file: its first word, so that a server's own list will do.

    Raises:
        BadInputError: the file cannot be read, or does not begin with one.
    """
    try:
        with path.open("rb") as file:
            words = file.read(TOKEN_BYTES).decode("ascii").split()
    except OSError as error:
        raise BadInputError(f"token file {path}: {error.strerror}") from None
    except UnicodeDecodeError:
        words = []
    if not words or len(words[0]) == TOKEN_BYTES:
        raise BadInputError(f"token file {path} does not begin with a token")
    return words[0]


def read_json(path: Path, remedy: str) -> dict[str, str]:
    """A small JSON object of strings from a file that we wrote."""
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        raise BadInputError(f"{path} does not exist; {remedy}") from None
    except ValueError:
        raise BadInputError(f"{path} is damaged; remove it and {remedy}") from None
    return dict(found)


def config_file() -> Path:
    """The configuration file in force (it need not exist)."""
    return Path(os.environ.get(ENV_PREFIX + "CONFIG", "platecrypt.toml"))


def load(**flags: Any) -> Settings:
    """Read the settings; `flags` that are None count as not given.

    Raises:
        BadInputError: a value or a name is wrong; the message names it and where it came from.
    """
    given = {name: value for name, value in flags.items() if value is not None}
    _refuse_unknown_environment()
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "?"
        where = sources(given).get(name, f"{config_file()}")
        # What has no name of ours may be a misspelt secret.
        ours = name in Settings.model_fields
        value = f" = {without_secrets(name, repr(first.get('input')))}" if ours else ""
        raise BadInputError(
            f"setting {name}{value} ({where}): {first['msg']}; "
            "`platecrypt config` lists the settings"
        ) from None
    except ValueError as error:
        raise BadInputError(f"{config_file()} is not valid TOML: {error}") from None


def without_secrets(name: str, value: str) -> str:
    """A setting's value as it may be shown: no secret key, no password of a URL."""
    if name in SECRET:
        return "***"
    return re.sub(r"(://[^:/@\s]*:)[^/\s]+@", r"\1***@", value)


def sources(flags: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Where each setting that is not a default comes from: name -> 'flag', 'PLATECRYPT_X', file."""
    found: dict[str, str] = {}
    file = config_file()
    for name in TomlConfigSettingsSource(Settings, file)():
        found[name] = str(file)
    for name in EnvSettingsSource(Settings)():
        found[name] = ENV_PREFIX + name.upper()
    for name in flags or {}:
        found[name] = "flag"
    return found


def _refuse_unknown_environment() -> None:
    known = {ENV_PREFIX + name.upper() for name in Settings.model_fields} | {ENV_PREFIX + "CONFIG"}
    for name in os.environ:
        if name.startswith(ENV_PREFIX) and name not in known:
            raise BadInputError(f"{name} is not a setting; `platecrypt config` lists the settings")
