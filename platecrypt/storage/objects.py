"""The object store: plain S3 through the `minio` client, with bounded waiting and clear errors.

Nothing here depends on versioning, on user metadata or on one server's error documents, because
the embedded server has none of them (it answers errors as text/xml, which the client reports as
InvalidResponseError where MinIO's own give S3Error).
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException

from platecrypt.errors import BadInputError, UnavailableError
from platecrypt.settings import StoreConfig

PART_SIZE = 16 * 1024 * 1024
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
MISSING_CODES = {"NoSuchKey", "NoSuchObject", "NoSuchBucket", "ResourceNotFound"}
REFUSED_CODES = {
    "AccessDenied",
    "InvalidAccessKeyId",
    "SignatureDoesNotMatch",
    "AuthorizationHeaderMalformed",
}
# What the client raises: its own errors, the transport's, a refused file.
FAILURES = (MinioException, urllib3.exceptions.HTTPError, OSError)


class MissingObjectError(UnavailableError):
    """No object has that key."""


@dataclass(frozen=True)
class ObjectInfo:
    """What a store says of an object: its key, its size in bytes, its entity tag."""

    key: str
    size: int
    etag: str


class ObjectStore:
    """One bucket of one S3."""

    def __init__(self, config: StoreConfig) -> None:
        self.config = config
        self.bucket = config.bucket
        self._client = _client(config)

    def ensure_bucket(self) -> None:
        """Make the bucket unless it is there."""
        try:
            if not self._client.bucket_exists(bucket_name=self.bucket):
                self._client.make_bucket(bucket_name=self.bucket, location=self.config.region)
        except FAILURES as error:
            self._fail(error, "")

    def put(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> None:
        """Store bytes under `key`; a reader sees all of them or none."""
        try:
            self._client.put_object(
                bucket_name=self.bucket,
                object_name=key,
                data=io.BytesIO(data),
                length=len(data),
                content_type=content_type,
            )
        except FAILURES as error:
            self._fail(error, key)

    def put_file(self, key: str, path: Path) -> None:
        """Store a file under `key` (in parts where it is large)."""
        try:
            self._client.fput_object(
                bucket_name=self.bucket,
                object_name=key,
                file_path=str(path),
                part_size=PART_SIZE,
            )
        except FAILURES as error:
            self._fail(error, key)

    def get(self, key: str, *, start: int = 0, length: int | None = None) -> bytes:
        """The bytes of an object, or `length` of them from `start`.

        Raises:
            MissingObjectError: there is no such object.
        """
        response = None
        if length == 0:
            return b""  # the client takes 0 for all of it
        try:
            response = self._client.get_object(
                bucket_name=self.bucket, object_name=key, offset=start, length=length or 0
            )
            return bytes(response.read())
        except FAILURES as error:
            self._fail(error, key)
        finally:
            if response is not None:
                response.close()
                response.release_conn()

    def get_file(self, key: str, path: Path) -> None:
        """Write an object to a file; the file appears whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._client.fget_object(bucket_name=self.bucket, object_name=key, file_path=str(path))
        except FAILURES as error:
            self._fail(error, key)

    def stat(self, key: str) -> ObjectInfo | None:
        """What is stored under `key`, or None."""
        try:
            found = self._client.stat_object(bucket_name=self.bucket, object_name=key)
        except FAILURES as error:
            if _code(error) in MISSING_CODES:
                return None
            self._fail(error, key)
        return ObjectInfo(key, int(found.size or 0), (found.etag or "").strip('"'))

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in the order of the keys."""
        try:
            for found in self._client.list_objects(
                bucket_name=self.bucket, prefix=prefix, recursive=True
            ):
                if found.object_name and not found.is_dir:
                    yield ObjectInfo(
                        found.object_name, int(found.size or 0), (found.etag or "").strip('"')
                    )
        except FAILURES as error:
            self._fail(error, prefix)

    def delete(self, key: str) -> None:
        """Remove an object; one that is not there is no error."""
        try:
            self._client.remove_object(bucket_name=self.bucket, object_name=key)
        except FAILURES as error:
            if _code(error) not in MISSING_CODES:
                self._fail(error, key)

    def _fail(self, error: Exception, key: str) -> NoReturn:
        where = f"s3://{self.bucket}/{key} at {self.config.endpoint}"
        code = _code(error)
        if code in MISSING_CODES:
            raise MissingObjectError(f"{where} does not exist") from error
        if code in REFUSED_CODES:
            raise UnavailableError(
                f"{where} refused the credentials ({code}); check PLATECRYPT_S3_ACCESS_KEY and "
                "the secret key"
            ) from error
        if code:
            raise UnavailableError(f"{where} answered {code}") from error
        raise UnavailableError(
            f"{where} does not answer ({type(error).__name__}); check PLATECRYPT_S3_ENDPOINT, or "
            "start the embedded one with `platecrypt up`"
        ) from error


def _client(config: StoreConfig) -> Minio:
    url = urlsplit(config.endpoint)
    if url.scheme not in ("http", "https") or not url.hostname or url.path.strip("/"):
        raise BadInputError(
            f"S3 endpoint {config.endpoint!r} is not of the form http(s)://host[:port]"
        )
    if not BUCKET_NAME.fullmatch(config.bucket):
        raise BadInputError(
            f"bucket name {config.bucket!r} is not valid: 3 to 63 of a-z, 0-9, '.' and '-'"
        )
    pool = urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=config.timeout_s, read=config.timeout_s),
        maxsize=16,
        retries=urllib3.Retry(
            total=2, connect=1, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]
        ),
    )
    return Minio(
        endpoint=url.netloc,
        access_key=config.access_key,
        secret_key=config.secret_key,
        secure=url.scheme == "https",
        region=config.region,
        http_client=pool,
    )


def _code(error: Exception) -> str:
    """The S3 error code of an exception, or '' if it carries none."""
    code = getattr(error, "code", None)
    if isinstance(code, str) and code:
        return code
    found = re.search(r"<Code>(\w+)</Code>", str(error))
    if found:
        return found.group(1)
    status = re.search(r"response code: (\d+)", str(error))
    return {"404": "NoSuchKey", "403": "AccessDenied"}.get(status.group(1), "") if status else ""
