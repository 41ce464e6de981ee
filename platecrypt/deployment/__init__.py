"""Bringing a model to its users: the InferenceService, who runs it, and the proof that it works."""

from platecrypt.deployment.inference_service import Container, InferenceService
from platecrypt.deployment.local import Endpoint, LocalDeployer
from platecrypt.deployment.smoke import SmokeResult, smoke_test

__all__ = [
    "Container",
    "Endpoint",
    "InferenceService",
    "LocalDeployer",
    "SmokeResult",
    "smoke_test",
]
