"""A finished experiment as one file that predicts on another machine: `export`, and `--model` of inference commands.

    model.json                 format, name, and sha256 of every other file
    settings.toml              the resolved settings, without paths of this machine
    model_card.md, .json
    artifacts/                 in the layout of an experiment: networks as OpenVINO graphs or arrays, LightGBM trees as
                               text, the second level as JSON, and the manifests of all inputs

The file contains no pickle, no pixels, no labels and no tables of predictions. It is checked in full before it is used.
"""

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

from ensemble.fit_ensemble import ensemble_artifact
from models.network_names import network_names
from models.prediction_engine import GRAPH, GRAPH_WEIGHTS
from pipeline import paths
from pipeline.artifact import MANIFEST, read_manifest, verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.experiments import SETTINGS
from pipeline.files import atomic_path, require_writable, sha256
from pipeline.load_settings import load_settings
from pipeline.settings import Settings
from pipeline.settings_text import settings_text
from submissions.finished_run import require_finished
from submissions.model_card import JSON as CARD_JSON
from submissions.model_card import MARKDOWN as CARD
from submissions.software_name import project

INDEX = "model.json"
FORMAT = 1
#: Files of a packed model: relative paths of plain words, with the suffix of data that cannot run code.
_NAME = re.compile(r"(?:[A-Za-z0-9_@,=+-][A-Za-z0-9_.@,=+-]*/)*[A-Za-z0-9_-]+\.(?:json|toml|md|npz|xml|bin|txt)")
#: So that equal models are equal files.
_DATE = (1980, 1, 1, 0, 0, 0)


def export_model(settings: Settings, file: Path) -> None:
    """Write the current experiment as one zip file.

    Args:
        settings: of the experiment.
        file: the zip file.

    Raises:
        UserError: no finished experiment with these settings, a damaged file, or a target that cannot be written.
    """
    require_writable(file)
    contents = model_contents(settings)
    with atomic_path(file) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            info = zipfile.ZipInfo(name, _DATE)
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, content.read_bytes() if isinstance(content, Path) else content)
    say(f"{paths.shown(file)}: {file.stat().st_size / 1e6:.1f} MB, {len(contents)} files")
    say(f"use it: ./run.sh predict DICOM_DIR --model {paths.shown(file)}")


def write_model_folder(settings: Settings, folder: Path) -> None:
    """Write what `export_model` writes as files below a new folder."""
    for name, content in model_contents(settings).items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, Path):
            shutil.copyfile(content, target)
        else:
            target.write_text(content)


def model_contents(settings: Settings) -> dict[str, Path | str]:
    """Name in the packed model -> file or text, the index first; files are checked against their manifests.

    Raises:
        UserError: no finished experiment with these settings, or a damaged file.
    """
    require_finished(settings)
    sources: list[Path] = []
    for folder in (paths.prepared(), paths.store(), paths.masks(), paths.acceptance()):
        sources += _files(folder, [])
    for network in network_names(settings.models):
        for fold in range(settings.input.folds):
            folder = paths.model_run(network, fold)
            recorded = read_manifest(folder)["files"]
            names = [GRAPH, GRAPH_WEIGHTS] if GRAPH in recorded else ["weights.npz"]
            sources += _files(folder, [*names, *(["scale.npz"] if "scale.npz" in recorded else [])])
    trees = [name for name in read_manifest(paths.ensemble_run())["files"] if name.startswith("trees/final/")]
    sources += _files(paths.ensemble_run(), ["models.json", *trees])
    sources += _files(paths.novelty(), ["novelty.npz"])
    sources += [paths.submissions() / name for name in (CARD, CARD_JSON) if (paths.submissions() / name).is_file()]
    settings_toml = settings_text(settings.without_paths(), "The resolved settings of the packed experiment.")
    digests = {path.relative_to(paths.experiment()).as_posix(): sha256(path) for path in sources}
    digests[SETTINGS] = hashlib.sha256(settings_toml.encode()).hexdigest()
    if ensemble_artifact(settings).stale_reason():
        raise UserError("The experiment changed while it was packed. Run the command again.")
    index = {
        "format": FORMAT, "name": paths.experiment().name, "software": project()["version"], "files": digests,
    }  # fmt: skip
    contents: dict[str, Path | str] = {INDEX: json.dumps(index, indent=2, sort_keys=True) + "\n"}
    contents[SETTINGS] = settings_toml
    return contents | {path.relative_to(paths.experiment()).as_posix(): path for path in sources}


def _files(folder: Path, names: list[str]) -> list[Path]:
    """Files of an artifact and its manifest, checked."""
    verify(folder, names)
    return [folder / name for name in (*names, MANIFEST)]


def use_model(source: Path) -> Settings:
    """Unpack a model below PE_ROOT, unless that is done, check it, and make it the current experiment.

    Args:
        source: a file of `export_model`, or a folder of `write_model_folder`.

    Returns:
        Its settings.

    Raises:
        UserError: not a packed model, or a damaged one; all faults at once.
    """
    if source.is_dir():
        index = _index(source / INDEX, (source / INDEX).read_bytes() if (source / INDEX).is_file() else b"")
        target = _unpack(source, index, {name: source / name for name in index["files"]})
    else:
        target = _unpack_archive(source)
    faults = [
        f"{name}: {'changed' if (target / name).is_file() else 'missing'}"
        for name, digest in _index(target / INDEX, (target / INDEX).read_bytes())["files"].items()
        if not (target / name).is_file() or sha256(target / name) != digest
    ]
    if faults:
        shutil.rmtree(target)
        raise UserError.listing(f"Damaged model: {source}:", faults, "Copy or export it again.")
    paths.select_experiment(str(target))
    return load_settings(target / SETTINGS)


def _unpack_archive(source: Path) -> Path:
    try:
        with zipfile.ZipFile(source) as archive:
            names = archive.namelist()
            index = _index(source, archive.read(INDEX) if INDEX in names else b"")
            unlisted = sorted(set(names) - {INDEX, *index["files"]})
            missing = sorted({*index["files"]} - set(names))
            faults = [f"{name}: not listed in {INDEX}" for name in unlisted] + [f"{name}: missing" for name in missing]
            if faults or len(names) != len(set(names)):
                raise UserError.listing(f"Damaged model: {source}:", faults or ["a name occurs twice"])
            return _unpack(source, index, archive)
    except FileNotFoundError as fault:
        raise UserError(f"No such file: {source}. Expected a file written by ./run.sh export.") from fault
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError) as fault:
        raise UserError(f"Damaged model: {source}: {fault}. Copy or export it again.") from fault


def _index(place: Path, data: bytes) -> dict[str, Any]:
    """Read and check model.json."""
    try:
        index = json.loads(data)
        names, version = list(index["files"]), index["format"]
    except (ValueError, KeyError, TypeError) as fault:
        raise UserError(f"Not a packed model: {place}. Expected a file written by ./run.sh export.") from fault
    if version != FORMAT:
        raise UserError(f"Packed model of another version: {place}. Expected format {FORMAT}, got {version}.")
    invalid = [name for name in names if not _NAME.fullmatch(name)]
    if invalid:
        raise UserError.listing(f"Not a packed model: {place}: unexpected files:", map(repr, invalid))
    return dict(index)


def _unpack(source: Path, index: dict[str, Any], contents: zipfile.ZipFile | dict[str, Path]) -> Path:
    """Write the files of a model to a folder named by its index; return the folder."""
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    target = paths.root() / "models" / "packed" / hashlib.sha256(text.encode()).hexdigest()[:16]
    if (target / INDEX).is_file():
        return target
    shutil.rmtree(target, ignore_errors=True)
    say(f"{source}: unpacking {len(index['files'])} files to {paths.shown(target)}")
    for name in index["files"]:
        file = target / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(contents, zipfile.ZipFile):
            with contents.open(name) as packed, file.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked)
        elif contents[name].is_file():
            shutil.copyfile(contents[name], file)
    (target / INDEX).write_text(text)  # written last: without it, the model is unpacked again
    return target
