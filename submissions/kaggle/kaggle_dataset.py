"""Data sets for a Kaggle notebook without Internet.

    OUT/pe-ensemble/
        code/              the packages of this checkout, the settings, the lock files
        run/               the finished experiment: settings.toml, artifacts/ with networks, ensemble, manifests
        dataset-metadata.json
    OUT/pe-wheels/
        requirements.lock  and, after `pip download`, a wheel for each of its lines
        dataset-metadata.json

No slices, no labels and no tables of predictions are packed: the contest's licence does not allow the first two, and
prediction needs none of them.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from ensemble.fit_ensemble import ensemble_artifact
from models.network_names import network_names
from models.prediction_engine import GRAPH, GRAPH_WEIGHTS
from pipeline import paths
from pipeline.artifact import MANIFEST, read_manifest, verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.experiments import SETTINGS
from pipeline.files import write_json, write_text
from pipeline.settings import Settings
from pipeline.settings_text import settings_text
from submissions.finished_run import require_finished
from submissions.software_name import project

ENSEMBLE, WHEELS = "pe-ensemble", "pe-wheels"
PACKAGES = ("input", "features", "models", "ensemble", "submissions", "inference", "pipeline")
TOP_FILES = ("run.sh", "pyproject.toml", "README.md", "LICENSE", "requirements-cpu.lock", "requirements-gpu.lock")
#: Folders of downloads and caches inside the packages.
_NOT_CODE = {"weights", "__pycache__"}
_CODE = {".py", ".json", ".toml", ".html", ".j2", ".css", ".js"}


def pack(settings: Settings, out: Path, *, user: str = "USER") -> None:
    """Write the data sets of a finished run below `out`, and print the next commands.

    Args:
        settings: those of the finished run.
        out: a new or empty folder.
        user: the data sets' owner on Kaggle.

    Raises:
        UserError: no finished run with these settings, a file that does not match its manifest, or `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"Folder is not empty: {out}. Expected a new or empty folder. Choose another --out.")
    require_finished(settings)
    copy_code(out / ENSEMBLE / "code")
    copy_run(settings, out / ENSEMBLE / "run")
    (out / WHEELS).mkdir(parents=True)
    shutil.copyfile(paths.CHECKOUT / "requirements-cpu.lock", out / WHEELS / "requirements.lock")
    for name, title in ((ENSEMBLE, "PE ensemble: code and finished run"), (WHEELS, "PE ensemble: wheels")):
        metadata = {"title": title, "id": f"{user}/{name}", "licenses": [{"name": "other"}]}
        write_json(out / name / "dataset-metadata.json", metadata)
    _print_next_steps(out)


def copy_code(out: Path) -> None:
    """Copy the packages, the settings and the lock files, without artifacts and caches."""
    files = [paths.CHECKOUT / name for name in TOP_FILES if (paths.CHECKOUT / name).is_file()]
    files += (paths.CHECKOUT / "settings").glob("*.toml")
    for package in PACKAGES:
        files += [file for file in sorted((paths.CHECKOUT / package).rglob("*")) if _is_code(file)]
    for file in files:
        _copy(file, out / file.relative_to(paths.CHECKOUT))


def _is_code(file: Path) -> bool:
    return file.is_file() and file.suffix in _CODE and _NOT_CODE.isdisjoint(file.relative_to(paths.CHECKOUT).parts)


def copy_run(settings: Settings, out: Path) -> None:
    """Copy the files of a finished run that prediction reads, each checked against its manifest first.

    Args:
        settings: those of the finished run.
        out: the folder to copy to, in the layout of an experiment.

    Raises:
        UserError: a file does not match its manifest, or the run changed meanwhile.
    """
    for folder in (paths.prepared(), paths.store(), paths.masks(), paths.acceptance()):
        _copy_files(folder, [], out)
    for network in network_names(settings.models):
        for fold in range(settings.input.folds):
            folder = paths.model_run(network, fold)
            recorded = read_manifest(folder)["files"]
            names = [GRAPH, GRAPH_WEIGHTS] if GRAPH in recorded else ["weights.npz"]
            _copy_files(folder, [*names, *(["scale.npz"] if "scale.npz" in recorded else [])], out)
    folder = paths.ensemble_run()
    trees = [name for name in read_manifest(folder)["files"] if name.startswith("trees/final/")]
    _copy_files(folder, ["models.json", *trees], out)
    text = settings_text(settings.without_paths(), "The resolved settings of the packaged run.")
    write_text(out / SETTINGS, text)
    if ensemble_artifact(settings).stale_reason():
        raise UserError("The run changed while it was packaged. Run ./run.sh kaggle-dataset again.")


def _copy_files(folder: Path, names: list[str], out: Path) -> None:
    """Copy files of an artifact and its manifest."""
    verify(folder, names)
    target = out / folder.relative_to(paths.experiment())
    for name in (*names, MANIFEST):
        _copy(folder / name, target / name)


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def download_command(out: Path, python: str = "") -> list[str]:
    """The pip command that downloads the wheels of the lock file; it selects wheels for the Python that runs it.

    Args:
        out: as given to `pack`.
        python: a Python of Kaggle's version on Linux x86-64 (`!python --version` in a notebook prints it), e.g.
            python3.11; the Python of this process if empty.
    """
    options = ["--only-binary", ":all:", "--require-hashes", "--no-deps"]
    files = ["-d", str(out / WHEELS), "-r", str(out / WHEELS / "requirements.lock")]
    return [python or sys.executable, "-m", "pip", "download", *options, *files]


def download_wheels(out: Path, python: str = "") -> None:
    """Run `download_command`.

    Args:
        out: as given to `pack`.
        python: see `download_command`.

    Raises:
        UserError: pip failed or is not installed.
    """
    command = download_command(out, python)
    if subprocess.run([*command[:3], "--version"], capture_output=True).returncode:
        raise UserError(
            f"{command[0]} has no pip; environments made by uv have none. Give a Python with pip: --python python3"
        )
    if subprocess.run(command).returncode:
        raise UserError(
            "pip download failed; see its output above. Download what is missing with the command that kaggle-dataset "
            "printed."
        )


def _print_next_steps(out: Path) -> None:
    size = sum(file.stat().st_size for file in (out / ENSEMBLE).rglob("*") if file.is_file())
    say(f"{paths.shown(out / ENSEMBLE)}: {size / 1e6:.1f} MB, {project()['name']} {project()['version']}")
    say("next:")
    say(f"  {' '.join(download_command(out))}")
    for name in (ENSEMBLE, WHEELS):
        say(f"  kaggle datasets create -p {paths.shown(out / name)} --dir-mode zip")
    say("  ./run.sh notebook --out pe.ipynb")
