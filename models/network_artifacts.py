"""The artifacts of networks: what identifies a slice network or an exam network, and which ones a job makes."""

import dataclasses

from features.connect_features import connect_features
from models.network_names import architecture, exam_network_kinds, exam_network_name
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest
from pipeline.recorded_weights import recorded_weights
from pipeline.settings import FOR_ALL_BACKBONES, Settings

VERSION = 9
EXAM_VERSION = 2
#: Settings of [models.exam] that select networks and do not affect the training of one.
NOT_RECIPE = ("kinds", "backbones")


def network_artifact(settings: Settings, backbone: str, fold: int) -> Artifact:
    """Return the artifact of one slice network."""
    resolved = dataclasses.asdict(settings.models.of(backbone))
    recipe = {key: value for key, value in resolved.items() if key not in FOR_ALL_BACKBONES}
    built = architecture(backbone)  # a suffix does not make another network
    return Artifact(
        paths.model_run(backbone, fold), f"models/{built}/fold{fold}", version=VERSION,
        settings={**recipe, "weights": recorded_weights(recipe["weights"]), "backbone": built, "fold": fold},
        inputs={
            "input/prepared": read_manifest(paths.prepared())["identity"],
            "features/store": read_manifest(paths.store())["identity"],
            **({"features/masks": read_manifest(paths.masks())["identity"]} if recipe["mask_supervision"] else {}),
        },
        shared=True,
    )  # fmt: skip


def exam_network_artifact(settings: Settings, backbone: str, fold: int, kind: str) -> Artifact:
    """Return the artifact of one exam network over one slice network (see `models.exam_runs`).

    Args:
        settings: The experiment.
        backbone: Backbone of the slice network.
        fold: The held-out fold.
        kind: One of `models.check_recipe.EXAM_KINDS`.
    """
    recipe = {key: value for key, value in dataclasses.asdict(settings.models.exam).items() if key not in NOT_RECIPE}
    built = architecture(backbone)
    name = exam_network_name(built, kind)
    return Artifact(
        paths.model_run(exam_network_name(backbone, kind), fold), f"models/{name}/fold{fold}", version=EXAM_VERSION,
        settings={**recipe, "backbone": built, "fold": fold, "kind": kind},
        inputs={"slice network": network_artifact(settings, backbone, fold).identity},
        shared=True,
    )  # fmt: skip


def job_artifacts(settings: Settings, backbone: str, fold: int) -> list[Artifact]:
    """Return the artifacts of one (backbone, fold) job: the slice network's, then those of its exam networks."""
    exam_artifacts = [
        exam_network_artifact(settings, backbone, fold, kind) for kind in exam_network_kinds(settings.models, backbone)
    ]
    return [network_artifact(settings, backbone, fold), *exam_artifacts]


def connect_networks(settings: Settings) -> None:
    """Link finished networks of these settings, and their inputs, into an experiment that has none yet."""
    connect_features(settings)
    if not (paths.store().exists() and paths.masks().exists()):
        return
    for backbone in settings.models.backbones:
        for fold in range(settings.input.folds):
            for artifact in job_artifacts(settings, backbone, fold):
                artifact.connect_if_finished()
