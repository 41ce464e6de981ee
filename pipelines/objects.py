"""The compiled pipeline as objects of Kubernetes: a Pipeline, a PipelineVersion, and its name.

For Kubeflow Pipelines that keeps its pipelines in the API server (2.14 and newer), and for Argo CD.
A PipelineVersion cannot be changed, so its name carries the digest of what it holds; a ConfigMap
tells that name to whoever starts runs of it.
"""

import hashlib
from pathlib import Path

import yaml

from pipelines.training import NAME

OBJECTS = Path("infra") / "kustomize" / "components" / "pipelines" / "pipeline.yaml"
NAMESPACE = "plates"
API_VERSION = "pipelines.kubeflow.org/v2beta1"
HEAD = (
    "# yamllint disable-file\n"
    "# Written by `platecrypt compile` from the pipeline's source; do not edit.\n"
)


def pipeline_objects(compiled: str, namespace: str = NAMESPACE) -> str:
    """The objects as YAML, the same text for the same pipeline.

    Args:
        compiled: KFP v2 IR YAML, as `compile_training` gives it.
        namespace: the one that they live in.
    """
    specification, platform = yaml.safe_load_all(compiled)
    name = f"{NAME}-{hashlib.sha256(compiled.encode()).hexdigest()[:12]}"
    pipeline = {
        "apiVersion": API_VERSION,
        "kind": "Pipeline",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "displayName": NAME,
            "description": specification["pipelineInfo"]["description"],
        },
    }
    version = {
        "apiVersion": API_VERSION,
        "kind": "PipelineVersion",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "pipelineName": NAME,
            "displayName": name,
            "pipelineSpec": specification,
            "platformSpec": platform,
        },
    }
    told = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": namespace},
        "data": {"version": name},
    }
    return HEAD + yaml.safe_dump_all([pipeline, version, told], sort_keys=False, width=100)
