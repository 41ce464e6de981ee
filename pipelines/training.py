"""The training pipeline: from images to an endpoint that protects the plates.

import -> validate -> build features -> select training set -> tune -> train -> evaluate ->
register -> deploy -> smoke test -> promote, and a summary in any case.
"""

from typing import Any, NamedTuple

from kfp import dsl, kubernetes

from components.datasets.import_dataset import import_dataset
from components.datasets.validate_dataset import validate_dataset
from components.deployment.deploy import deploy
from components.deployment.promote import promote
from components.deployment.smoke_test import smoke_test
from components.evaluation.evaluate import evaluate
from components.features.build_features import build_features
from components.features.select_training_set import select_training_set
from components.registry.find_champion import find_champion
from components.registry.register import register
from components.reporting.summarise import summarise
from components.training.train import train
from components.tuning.tune import tune

NAME = "safelicensing-training"
SETTINGS_CONFIG = "platecrypt-settings"  # ConfigMap with the settings of the steps on a cluster
FEAST_CLIENT = "feast-client"  # ConfigMap with the feature_store.yaml of Feast's clients
FEAST_FOLDER = "/mnt/feast"
RUN_LABEL = "metadata.labels['pipeline/runid']"  # set by Kubeflow Pipelines on every pod
GPU = "nvidia.com/gpu"
SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where the data loader of PyTorch expects it
SETTINGS = (
    "S3_ENDPOINT",
    "S3_ACCESS_KEY",
    "S3_SECRET_KEY_FILE",
    "S3_BUCKET",
    "S3_REGION",
    "MLFLOW_TRACKING_URI",
    "FEAST_REGISTRY",
    "FEAST_ONLINE_STORE",
    "FEAST_CONFIG",
    "TUNING_ENGINE",
    "EXPERIMENT_PATCH",
    "DEPLOYMENT_ENGINE",
    "KEYS_FILE",
    "GATE_KEY_FILE",
    "ENDPOINT_TOKEN_FILE",
)


class Mount(NamedTuple):
    """A Secret of the namespace, and the folder in which a step finds its keys as files."""

    secret: str
    folder: str


# A step sees the Secrets that it needs and no other: what imports and trains has no key that opens
# plates or signs a verdict.
STORE = Mount("platecrypt-s3", "/mnt/store")  # of the object store; every step
GATE = Mount("platecrypt-gate", "/mnt/gate")  # signs verdicts, and checks them
KEYS = Mount("platecrypt-keys", "/mnt/keys")  # opens what the endpoint sealed
ENDPOINT = Mount("platecrypt-endpoint", "/mnt/endpoint")  # the token of who asks the endpoint
# Kubeflow Pipelines knows one account a run. The steps that ask the cluster have the token of an
# account of their own, where a pod's own token would be.
TOKEN_FOLDER = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105
TUNE_TOKEN = Mount("platecrypt-tune-token", TOKEN_FOLDER)
DEPLOY_TOKEN = Mount("platecrypt-deploy-token", TOKEN_FOLDER)


class Images(NamedTuple):
    """The container image of each family of steps."""

    data: str
    train: str
    deploy: str


def images(registry: str, tag: str) -> Images:
    """The images that `components/images/` builds, at a registry and with a tag."""
    return Images(*(f"{registry}/platecrypt-{family}:{tag}" for family in Images._fields))


DEFAULT_IMAGES = images("ghcr.io/safelicensing", "0.1.0")


def training_pipeline(use: Images = DEFAULT_IMAGES, *, gpu: bool = True, retries: int = 2) -> Any:
    """The pipeline.

    Args:
        use: the images that its steps run in.
        gpu: whether the step that trains asks for one; a pod that does waits until it gets it.
        retries: of a step that reads from outside. 0 where there is no pod to lose: the store's
            client repeats its requests by itself, and bad input is as bad the second time.
    """

    @dsl.pipeline(
        name=NAME,
        description="Takes images to an endpoint that protects the licence plates.",
    )
    def safelicensing_training(
        dataset: str = "synthetic://?images=96&seed=7&difficulty=easy",
        limit: int = 0,
        trials: int = 3,
        trial_steps: int = 200,
        warm_start: str = "",
        training_steps: int = 0,
        image_size: int = 0,
        pretrained: str = "auto",
        min_map50: float = 0.5,
        min_recall: float = 0.5,
        seed: int = 1,
        library: str = "0.1.0",
    ) -> None:
        summary = _with(
            _always(_on(use.deploy, summarise(dataset=dataset, library=library)), memory="512Mi"),
            DEPLOY_TOKEN,
        )
        with dsl.ExitHandler(summary, name="steps"):
            imported = _on(
                use.data, import_dataset(source=dataset, limit=limit, library=library)
            ).set_retry(retries, backoff_duration="10s")
            manifest = imported.outputs["manifest"]
            validated = _on(use.data, validate_dataset(manifest=manifest, library=library))
            features = _on(use.data, build_features(manifest=manifest, library=library))
            features.set_retry(retries, backoff_duration="10s").after(validated)
            selected = _on(
                use.data,
                select_training_set(
                    manifest=manifest, features=features.outputs["features"], library=library
                ),
            )
            training_set = selected.outputs["training_set"]
            # It waits for Katib, whose trials have the GPUs.
            tuned = _with(
                _on(
                    use.train,
                    tune(
                        manifest=manifest,
                        training_set=training_set,
                        trials=trials,
                        trial_steps=trial_steps,
                        warm_start=warm_start,
                        seed=seed,
                        library=library,
                    ),
                ),
                TUNE_TOKEN,
            )
            trained = (_on_gpu if gpu else _on)(
                use.train,
                train(
                    manifest=manifest,
                    training_set=training_set,
                    best=tuned.outputs["best"],
                    training_steps=training_steps,
                    image_size=image_size,
                    pretrained=pretrained,
                    seed=seed,
                    library=library,
                ),
                memory="16Gi",
            )
            model = trained.outputs["model"]
            champion = _always(_on(use.train, find_champion(model=model, library=library)))
            evaluated = _with(
                _on(
                    use.train,
                    evaluate(
                        manifest=manifest,
                        training_set=training_set,
                        model=model,
                        champion=champion.output,
                        min_map50=min_map50,
                        min_recall=min_recall,
                        library=library,
                    ),
                    memory="4Gi",
                ),
                GATE,
            )
            verdict = evaluated.outputs["verdict"]
            registered = _with(
                _always(_on(use.train, register(model=model, verdict=verdict, library=library))),
                GATE,
            )
            deployed = _deploys(
                use.deploy,
                deploy(version=registered.output, model=model, verdict=verdict, library=library),
                GATE,
            )
            tested = _deploys(
                use.deploy,
                smoke_test(url=deployed.output, manifest=manifest, library=library),
                KEYS,
            )
            _deploys(use.deploy, promote(version=registered.output, library=library)).after(tested)

    return safelicensing_training


def _on(image: str, task: Any, *, memory: str = "2Gi") -> Any:
    """A step on any node, with the settings of the namespace and the key of the object store."""
    task.set_container_image(image).set_cpu_request("500m").set_memory_request("512Mi")
    task.set_memory_limit(memory)
    kubernetes.use_config_map_as_env(
        task,
        config_map_name=SETTINGS_CONFIG,
        config_map_key_to_env={name: f"PLATECRYPT_{name}" for name in SETTINGS},
    )
    kubernetes.use_config_map_as_volume(task, FEAST_CLIENT, mount_path=FEAST_FOLDER, optional=True)
    # By the pod, not as a parameter: a parameter that differs each run would defeat the cache.
    kubernetes.use_field_path_as_env(task, "PLATECRYPT_PIPELINE_RUN", RUN_LABEL)
    return _with(task, STORE)


def _on_gpu(image: str, task: Any, *, memory: str) -> Any:
    """A step on a GPU node; shared memory for the data loader's workers."""
    _on(image, task, memory=memory)
    task.set_accelerator_type(GPU).set_accelerator_limit(1)
    kubernetes.add_toleration(task, key=GPU, operator="Exists", effect="NoSchedule")
    kubernetes.empty_dir_mount(
        task, volume_name="shm", mount_path=SHARED_MEMORY, medium="Memory", size_limit="8Gi"
    )
    return task


def _deploys(image: str, task: Any, *mounts: Mount) -> Any:
    """A step that changes the endpoint, and asks it what it serves."""
    return _with(_always(_on(image, task)), DEPLOY_TOKEN, ENDPOINT, *mounts)


def _with(task: Any, *mounts: Mount) -> Any:
    """A step that sees these Secrets."""
    for mount in mounts:
        kubernetes.use_secret_as_volume(task, secret_name=mount.secret, mount_path=mount.folder)
    return task


def _always(task: Any, memory: str = "2Gi") -> Any:
    """A step whose effect lies outside its outputs: never taken from the cache."""
    return task.set_memory_limit(memory).set_caching_options(enable_caching=False)
