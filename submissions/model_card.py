"""The model card of a finished run: model_card.json for programs, model_card.md for people.

Every figure is read from the manifests, the leaderboard and the tables of the run; the Markdown is drawn from the
JSON alone. After Mitchell et al. 2019, "Model Cards for Model Reporting", doi 10.1145/3287560.3287596.
"""

import math
import os
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

from input.contest import (
    ACUTE_AND_CHRONIC,
    CENTRAL,
    CHRONIC,
    EXAM_LABELS,
    GTE_1,
    INDETERMINATE,
    LEFT,
    LT_1,
    NEGATIVE,
    RIGHT,
    SLICE_LABEL,
    STUDY,
)
from input.tables import load_exams, load_slices
from models.pretrained import WHEELS
from pipeline import paths
from pipeline.artifact import MANIFEST, read_manifest
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import write_json, write_text
from pipeline.jobs import cores
from pipeline.settings import Settings, told_weights
from submissions.finished_run import read_candidates, require_finished, submission_artifact
from submissions.leaderboard import leaderboard_path, read_leaderboard
from submissions.model_card_page import page
from submissions.score_report import SYNTHETIC
from submissions.software_name import RESEARCH_USE_ONLY, project

JSON, MARKDOWN = "model_card.json", "model_card.md"
MEANINGS = {
    NEGATIVE: "no pulmonary embolism, and the exam allows to say so",
    INDETERMINATE: "motion or poor contrast does not allow to say",
    GTE_1: "PE; right ventricle at least as wide as the left",
    LT_1: "PE; right ventricle narrower than the left",
    LEFT: "PE on the left",
    RIGHT: "PE on the right",
    CENTRAL: "PE in the pulmonary trunk or a main pulmonary artery",
    CHRONIC: "PE, chronic",
    ACUTE_AND_CHRONIC: "PE, acute and chronic",
    SLICE_LABEL: "PE on this slice",
}
INTENDED_USE = (
    "Research on computer-aided detection of pulmonary embolism on CT pulmonary angiography.",
    "Submissions to the RSNA-STR Pulmonary Embolism Detection contest (Kaggle 2020).",
)
LIMITS = (
    "Not a medical device; not for diagnosis, triage or any decision on a patient.",
    "Answers hold for contrast-enhanced axial CT of the chest of the kind that it was trained on, nothing else.",
    "Intervals are a bootstrap over exams of one data set; they do not cover another hospital's data.",
    "The promoted candidate was chosen on the out-of-fold score, which is therefore slightly favourable.",
)
CITATION = "Contest data: Colak et al. 2021, RSPECT, doi 10.1148/ryai.2021200254, non-commercial licence."
DRAWN = "Exams drawn by this code; only published counts of label combinations come from the contest's data."
_STAGES = {"input": paths.prepared, "features": paths.store, "ensemble": paths.ensemble_run}
_STAGES |= {"submissions": paths.submissions}


def write_card(settings: Settings) -> Path:
    """Write both files beside the submissions; the path of the Markdown.

    Raises:
        UserError: the run is not finished.
    """
    facts = card_facts(settings)
    write_json(paths.submissions() / JSON, facts)
    write_text(paths.submissions() / MARKDOWN, page(facts))
    return paths.submissions() / MARKDOWN


def card_command(settings: Settings) -> None:
    """What `python -m submissions card` does.

    Raises:
        UserError: the run is not finished with these settings, or the submissions are those of another ensemble.
    """

    require_finished(settings)
    product = submission_artifact(settings, read_candidates(paths.ensemble_run()))
    reason = product.stale_reason()
    if reason:
        raise UserError(
            f"{product.name}: {reason}; the card tells of a whole run: ./run.sh --from submissions, with the "
            "--settings, --set and --data of that run"
        )
    written = write_card(settings)
    say(f"model card: {paths.shown(written)}, {JSON}")


def card_facts(settings: Settings) -> dict[str, Any]:
    """Everything that the card tells, as JSON values.

    Raises:
        UserError: the run is not finished.
    """
    manifest = read_manifest(paths.submissions())
    rows = read_leaderboard(leaderboard_path())
    rows = rows[rows["run"] == manifest["identity"]]
    if rows.empty:
        raise UserError(
            f"{paths.shown(leaderboard_path())}: has no row of this run; ./run.sh --from submissions --force adds it"
        )
    about = project()
    promoted = rows[rows["promoted"].astype(str).str.lower() == "true"].iloc[0]
    is_phantom = bool(manifest.get("is_phantom"))
    return {
        "name": about["name"],
        "version": about["version"],
        "licence": about["license"],
        "description": about["description"],
        "commit": promoted["commit"],
        "when": promoted["when"],
        "research_use_only": RESEARCH_USE_ONLY,
        "synthetic": is_phantom,
        "notice": SYNTHETIC if is_phantom else "",
        "citation": DRAWN if is_phantom else CITATION,
        "labels": {label: MEANINGS[label] for label in (*EXAM_LABELS, SLICE_LABEL)},
        "intended_use": list(INTENDED_USE),
        "limits": list(LIMITS),
        "data": {"name": promoted["data"], **_data()},
        "folds": _folds(manifest["run_settings"]["input"]["fold_seed"]),
        "weights": _weights(settings),
        "networks": _networks(settings),
        "promoted": promoted["candidate"],
        "scores": {row["candidate"]: _scores(row) for row in rows.to_dict("records")},
        "settings": manifest["run_settings"],
        "environment": _environment(settings),
        "seconds": _seconds(settings),
        "identities": {name: _manifest(folder()).get("identity", "") for name, folder in _STAGES.items()},
    }


def _data() -> dict[str, Any]:
    exams, slices = load_exams(), load_slices()
    train = exams[exams["split"] == "train"]
    labelled = slices[slices["split"] == "train"]
    with_pe = labelled.loc[labelled[SLICE_LABEL] > 0.5, STUDY].nunique()
    return {
        "training_exams": len(train),
        "training_exams_with_pe": int(with_pe),
        "test_exams": int((exams["split"] == "test").sum()),
        "training_slices": len(labelled),
        "training_slices_with_pe": int((labelled[SLICE_LABEL] > 0.5).sum()),
        "test_slices": int((slices["split"] == "test").sum()),
        "training_exams_by_label": {label: int(train[label].sum()) for label in EXAM_LABELS},
        "quarantined_slices": _manifest(paths.store()).get("metrics", {}).get("quarantined"),
    }


def _folds(seed: int) -> dict[str, Any]:
    exams = load_exams()
    sizes = exams.loc[exams["split"] == "train", "fold"].value_counts().sort_index()
    return {"seed": seed, "exams": [int(size) for size in sizes]}


def _weights(settings: Settings) -> list[dict[str, str]]:
    """Where each backbone's training started, and under which licence that is."""
    found = []
    for backbone in settings.models.backbones:
        start = settings.models.of(backbone).weights
        licence = {"none": "trained from scratch", "imagenet": "that of keras.applications (Apache-2.0)"}
        known = WHEELS[backbone].licence if start == "imagenet" and backbone in WHEELS else licence.get(start, "yours")
        found.append({"backbone": backbone, "start": told_weights(start), "licence": known})
    return found


def _networks(settings: Settings) -> list[dict[str, Any]]:
    """A line a (network, fold), as far as their manifests are there."""
    found = []
    for network in settings.models.networks:
        for fold in range(settings.input.folds):
            manifest = _manifest(paths.model_run(network, fold))
            if manifest:
                keep = {key: manifest.get(key) for key in ("rows", "metrics", "seed", "threads", "wall_seconds")}
                engine = "openvino" if "network.xml" in manifest["files"] else "keras"
                found.append({"network": network, "fold": fold, "engine": engine, **keep})
    return found


def _scores(row: dict[str, Any]) -> dict[str, Any]:
    """A candidate's figures; None where nothing was measured, as without a test truth."""
    parts = {"out_of_fold": "cv", "test_truth": "test"}
    return {part: None if _finite(row[short]) is None else _figures(row, short) for part, short in parts.items()}


def _figures(row: dict[str, Any], short: str) -> dict[str, dict[str, float | None]]:
    """Name -> value, low, high, from the leaderboard's columns that begin with `short`."""
    columns = {"metric": short, **{name: f"{short}_{end}" for name, end in _COLUMNS.items()}}
    ends = {"value": "", "low": "_low", "high": "_high"}
    return {
        name: {key: _finite(row.get(f"{column}{end}")) for key, end in ends.items()} for name, column in columns.items()
    }


_COLUMNS = {"exam_part": "exam", "image_part": "image", "slice_auc": "slice_auc", "exam_auc": "exam_auc"}


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def hardware() -> dict[str, Any]:
    """The machine that this runs on: processor, cores that may be used, memory, graphics cards."""
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE) if cpuinfo.is_file() else []
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": cores(),
        "memory_gb": round(memory / 1e9, 1),
        "graphics": _graphics_cards(),
    }


def _graphics_cards() -> list[str]:
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.split("\n")[:-1]
    except (OSError, subprocess.SubprocessError):
        return []


def _environment(settings: Settings) -> dict[str, Any]:
    """Versions and machines of every manifest; more than one value means that the run moved or was updated."""
    libraries: dict[str, set[str]] = {}
    for manifest in _all_manifests(settings):
        for name, version in manifest.get("libraries", {}).items():
            libraries.setdefault(name, set()).add(version)
    told = {key: sorted({m[key] for m in _all_manifests(settings) if key in m}) for key in ("python", "machine")}
    told["hardware"] = _manifest(paths.submissions()).get("hardware")
    return {**told, "libraries": {name: sorted(versions) for name, versions in sorted(libraries.items())}}


def _seconds(settings: Settings) -> dict[str, float]:
    """Wall time a stage; jobs of the models that ran side by side are added up."""
    found = {name: float(_manifest(folder()).get("wall_seconds", 0.0)) for name, folder in _STAGES.items()}
    found["models"] = sum(each["wall_seconds"] or 0.0 for each in _networks(settings))
    return {name: round(seconds, 1) for name, seconds in found.items()}


def _all_manifests(settings: Settings) -> list[dict[str, Any]]:
    runs = [paths.model_run(name, fold) for name in settings.models.networks for fold in range(settings.input.folds)]
    return [each for each in map(_manifest, [*(folder() for folder in _STAGES.values()), *runs]) if each]


def _manifest(folder: Path) -> dict[str, Any]:
    return read_manifest(folder) if (folder / MANIFEST).is_file() else {}
