"""Object storage: one client for every S3, and the embedded server."""

from platecrypt.storage.objects import ObjectInfo, ObjectStore

__all__ = ["ObjectInfo", "ObjectStore"]
