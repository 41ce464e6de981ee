"""Settings: later sources win, and a mistake is named with where it came from."""

from pathlib import Path

import pytest

from platecrypt.errors import BadInputError
from platecrypt.settings import load, sources, without_secrets


def test_flag_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "platecrypt.toml"
    file.write_text('port = 8001\ns3_port = 9001\nmodel_name = "filed"\n')
    monkeypatch.setenv("PLATECRYPT_CONFIG", str(file))
    monkeypatch.setenv("PLATECRYPT_PORT", "8002")
    monkeypatch.setenv("PLATECRYPT_S3_PORT", "9002")
    settings = load(s3_port=9003)
    assert (settings.model_name, settings.port, settings.s3_port) == ("filed", 8002, 9003)
    assert settings.s3_bucket == "platecrypt"
    assert sources({"s3_port": 9003}) == {
        "model_name": str(file),
        "port": "PLATECRYPT_PORT",
        "s3_port": "flag",
    }


@pytest.mark.parametrize("value", ["0", "65536", "eighty"])
def test_a_wrong_value_is_named_with_its_source(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("PLATECRYPT_PORT", value)
    with pytest.raises(BadInputError, match=rf"port = '{value}' \(PLATECRYPT_PORT\)"):
        load()


def test_a_misspelt_variable_is_not_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLATECRYPT_S3_ENDPONT", "http://127.0.0.1:1")
    with pytest.raises(BadInputError, match="PLATECRYPT_S3_ENDPONT is not a setting"):
        load()


def test_a_misspelt_name_in_the_file_is_not_ignored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "platecrypt.toml"
    file.write_text("prot = 1\n")
    monkeypatch.setenv("PLATECRYPT_CONFIG", str(file))
    with pytest.raises(BadInputError, match="prot"):
        load()


def test_a_damaged_file_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "platecrypt.toml"
    file.write_text("port = = 1\n")
    monkeypatch.setenv("PLATECRYPT_CONFIG", str(file))
    with pytest.raises(BadInputError, match=r"platecrypt\.toml is not valid TOML"):
        load()


def test_a_child_process_gets_the_same_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parent = load(home=tmp_path, port=8123, s3_access_key="k", s3_endpoint="http://h:1")
    for name, value in parent.as_environment().items():
        monkeypatch.setenv(name, value)
    child = load()
    assert child.home == tmp_path
    assert (child.port, child.s3_access_key, child.s3_endpoint) == (8123, "k", "http://h:1")


def test_an_endpoint_without_keys_says_which_to_set() -> None:
    with pytest.raises(BadInputError, match="PLATECRYPT_S3_ACCESS_KEY"):
        load(s3_endpoint="http://127.0.0.1:1").store()


def test_the_secret_key_may_stand_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("from-a-file\n")
    settings = load(s3_endpoint="http://h:1", s3_access_key="k", s3_secret_key_file=file)
    assert settings.store().secret_key == "from-a-file"


def test_the_endpoints_token_is_the_first_word_of_a_file(tmp_path: Path) -> None:
    assert load().endpoint_token is None
    file = tmp_path / "tokens"
    settings = load(endpoint_token_file=str(file))
    with pytest.raises(BadInputError, match=f"{file}: No such file"):
        _ = settings.endpoint_token
    file.write_text("first-token-of-two\nsecond-token-of-two\n")
    assert settings.endpoint_token == "first-token-of-two"
    for wrong in (b"", b" \n", b"\xff" * 20, b"x" * 10_000):
        file.write_bytes(wrong)
        with pytest.raises(BadInputError, match="does not begin with a token"):
            _ = settings.endpoint_token


def test_without_an_endpoint_the_store_is_the_embedded_one(tmp_path: Path) -> None:
    settings = load(home=tmp_path)
    with pytest.raises(BadInputError, match="platecrypt up"):
        settings.store()


def test_no_error_shows_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "platecrypt.toml"
    monkeypatch.setenv("PLATECRYPT_CONFIG", str(file))
    for line in ('s3_secretkey = "hunter2"', "s3_secret_key = [['hunter2']]"):
        file.write_text(line + "\n")
        with pytest.raises(BadInputError, match="s3_secret") as refused:
            load()
        assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("s3_secret_key", "hunter2", "***"),
        (
            "mlflow_tracking_uri",
            "postgresql://me:p@ss:w@db:5432/m",
            "postgresql://me:***@db:5432/m",
        ),
        ("mlflow_tracking_uri", "http://mlflow:5000/a@b", "http://mlflow:5000/a@b"),
        ("feast_registry", "redis://:pw@cache:6379", "redis://:***@cache:6379"),
        ("home", ".platecrypt", ".platecrypt"),
    ],
)
def test_what_is_shown_of_a_setting(name: str, value: str, shown: str) -> None:
    assert without_secrets(name, value) == shown
