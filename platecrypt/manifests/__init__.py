"""Checking Kubernetes manifests before anybody applies them: schemas, webhooks, names, safety."""

from platecrypt.manifests.check import Report, check
from platecrypt.manifests.model import Finding, ManifestSet, Object
from platecrypt.manifests.reading import read

__all__ = ["Finding", "ManifestSet", "Object", "Report", "check", "read"]
