"""The artifact ensemble/novelty: how unlike the training exams an exam is, by the embeddings of one backbone.

    novelty.npz      fold<k>_mean, fold<k>_precision, fold<k>_limit of every fold's reference (see `ensemble.novelty`)
    exams.parquet    STUDY, role (oof | test), distance: 1 is the limit

The manifest names the backbone and the share of exams beyond the limit. A test exam's distance is the smallest over
the folds' references: it is unlike the training exams only if every fold says so.
"""

from collections.abc import Mapping

import numpy as np
import pandas as pd

from ensemble.novelty import Reference, fit_reference, summarise
from features.acceptance_rules import Reason
from input.contest import STUDY
from models.arrays import load_arrays, save_arrays
from models.stored_maps import mapping_backbone
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest, verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import read_table, write_table
from pipeline.identity import identity_of
from pipeline.settings import Settings

VERSION = 1
ARRAYS = "novelty.npz"
FILES = ("slices.parquet", "embeddings.npy")


def novelty_artifact(settings: Settings) -> Artifact:
    """The artifact that `fit_novelty` writes; its inputs are the slice networks of the best backbone.

    Raises:
        UserError: a network is not finished.
    """
    backbone = mapping_backbone(settings)
    manifests = {fold: read_manifest(paths.model_run(backbone, fold)) for fold in range(settings.input.folds)}
    return Artifact(
        paths.novelty(),
        "ensemble/novelty",
        version=VERSION,
        settings={"backbone": backbone},
        inputs={
            f"{backbone}/fold{fold}": identity_of([manifest["identity"], manifest["files"].get(FILES[1])])
            for fold, manifest in manifests.items()
        },
        shared=True,
    )


def fit_novelty(settings: Settings, *, force: bool = False) -> None:
    """Fit every fold's reference on the exams that its network did not see, and measure all exams.

    Args:
        settings: those of the run.
        force: rebuild an artifact that is up to date.

    Raises:
        UserError: networks that are not finished, or files that do not match their manifest.
    """
    artifact = novelty_artifact(settings)
    if artifact.is_current(force=force):
        return
    backbone = mapping_backbone(settings)
    references, tables, test = {}, [], []
    for fold in range(settings.input.folds):
        studies, summaries = _summaries(backbone, fold, "oof")
        if len(studies) < 2:
            raise UserError(
                f"Too few exams in fold {fold}: expected at least 2 with readable slices, got {len(studies)}. Use a "
                "contest with more exams, or fewer folds (input.folds)."
            )
        references[fold], distance = fit_reference(summaries)
        tables.append(pd.DataFrame({STUDY: studies, "role": "oof", "distance": distance}))
        studies, summaries = _summaries(backbone, fold, "test")
        test.append(pd.Series(references[fold].distance(summaries), studies))
    smallest = pd.concat(test, axis=1).min(axis=1)
    tables.append(pd.DataFrame({STUDY: smallest.index, "role": "test", "distance": smallest.to_numpy()}))
    table = pd.concat(tables, ignore_index=True)
    beyond = (table["distance"] > 1).groupby(table["role"]).mean()
    with artifact.building(fresh=True) as directory:
        save_arrays(directory / ARRAYS, _arrays(references))
        write_table(directory / "exams.parquet", table)
        metrics = {"backbone": backbone, "beyond": {role: round(float(share), 4) for role, share in beyond.items()}}
        artifact.finish(rows={"exams": len(table)}, metrics=metrics)
    shares = ", ".join(f"{share:.1%} of the {role} exams" for role, share in beyond.items())
    say(f"ensemble/novelty: {backbone}: {shares} are beyond the limit")


def _summaries(backbone: str, fold: int, role: str) -> tuple[np.ndarray, np.ndarray]:
    """StudyInstanceUIDs, ascending, and their summaries (e, p)."""
    directory = paths.model_run(backbone, fold)
    verify(directory, list(FILES))
    table = pd.read_parquet(directory / FILES[0], columns=[STUDY, "role", "row"])
    table = table[table["role"] == role]
    studies, owner = np.unique(table[STUDY].to_numpy(str), return_inverse=True)
    embeddings = np.load(directory / FILES[1], mmap_mode="r")
    return studies, summarise(embeddings[table["row"].to_numpy()], owner, len(studies))


def _arrays(references: Mapping[int, Reference]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for fold, reference in references.items():
        arrays |= {f"fold{fold}_mean": reference.mean, f"fold{fold}_precision": reference.precision}
        arrays[f"fold{fold}_limit"] = np.array(reference.limit)
    return arrays


def read_references() -> dict[int, Reference]:
    """Fold -> reference, of the finished run.

    Raises:
        UserError: no finished references, or a file that does not match its manifest.
    """
    verify(paths.novelty(), [ARRAYS])
    arrays = load_arrays(paths.novelty() / ARRAYS)
    folds = sorted(int(name.removeprefix("fold").removesuffix("_mean")) for name in arrays if name.endswith("_mean"))
    return {
        fold: Reference(arrays[f"fold{fold}_mean"], arrays[f"fold{fold}_precision"], float(arrays[f"fold{fold}_limit"]))
        for fold in folds
    }


def read_distances() -> dict[str, float]:
    """StudyInstanceUID -> distance, of the training and test exams of the finished run; 1 is the limit.

    Raises:
        UserError: no finished distances, or a file that does not match its manifest.
    """
    verify(paths.novelty(), ["exams.parquet"])
    table = read_table(paths.novelty() / "exams.parquet")
    return dict(zip(table[STUDY], table["distance"], strict=True))


def measure_novelty(
    references: Mapping[int, Reference], embeddings: Mapping[int, np.ndarray], studies: np.ndarray
) -> dict[str, float]:
    """Distance of new exams: the smallest over the folds.

    Args:
        references: from `read_references`.
        embeddings: fold -> (n, d) embeddings of the backbone that the references were fitted on.
        studies: (n,) study of each slice.

    Returns:
        study -> distance; 1 is the limit.
    """
    names, owner = np.unique(studies.astype(str), return_inverse=True)
    distances = [
        reference.distance(summarise(embeddings[fold], owner, len(names))) for fold, reference in references.items()
    ]
    return dict(zip(names.tolist(), np.min(distances, axis=0).tolist(), strict=True))


def novelty_reason(distance: float) -> Reason | None:
    """The reason for caution of an exam beyond the limit; None within it."""
    if distance <= 1:
        return None
    return Reason("unlike training", f"unlike the training exams: {distance:.1f} times the limit of the distance")
