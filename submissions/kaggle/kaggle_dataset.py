"""What a Kaggle notebook without Internet needs, packed as data sets.

    OUT/pe-ensemble/
        code/              the packages of this checkout, the settings, the lock files
        run/               the finished run as PE_ROOT holds it: networks, ensemble, manifests; settings.toml
        dataset-metadata.json
    OUT/pe-wheels/
        requirements.lock  and, once `pip download` has run, a wheel for each of its lines
        dataset-metadata.json

No slice, no label row and no table of predictions is packed: the contest's licence does not allow the first two, and
predicting needs none of them.
"""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from ensemble.fit_ensemble import ensemble_artifact
from models.inference import GRAPH, GRAPH_WEIGHTS
from pipeline import paths
from pipeline.artifact import MANIFEST, read_manifest, verify
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import write_json, write_text
from pipeline.settings import Settings
from submissions.finished_run import require_finished
from submissions.software_name import project

ENSEMBLE, WHEELS = "pe-ensemble", "pe-wheels"
PACKAGES = ("input", "features", "models", "ensemble", "submissions", "inference", "pipeline")
TOP_FILES = ("run.sh", "pyproject.toml", "README.md", "LICENSE", "requirements-cpu.lock", "requirements-gpu.lock")
#: Folders of products inside the packages, and what is not needed.
_NOT_CODE = {"raw", "prepared", "store", "runs", "weights", "predicted", "__pycache__"}
_CODE = {".py", ".json", ".toml", ".html", ".j2", ".css", ".js"}


def pack(settings: Settings, out: Path, *, user: str = "USER") -> None:
    """Write the data sets of a finished run below `out`, and say what makes and sends them.

    Args:
        settings: those of the finished run.
        out: a new or empty folder.
        user: the owner on Kaggle, for the data sets' ids.

    Raises:
        UserError: no finished run with these settings, a file that does not match its manifest, or `out` is not empty.
    """
    if out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: not empty; kaggle-dataset writes into a new or empty folder")
    require_finished(settings)
    copy_code(out / ENSEMBLE / "code")
    copy_run(settings, out / ENSEMBLE / "run")
    (out / WHEELS).mkdir(parents=True)
    shutil.copyfile(paths.CHECKOUT / "requirements-cpu.lock", out / WHEELS / "requirements.lock")
    for name, title in ((ENSEMBLE, "PE ensemble: code and finished run"), (WHEELS, "PE ensemble: wheels")):
        metadata = {"title": title, "id": f"{user}/{name}", "licenses": [{"name": "other"}]}
        write_json(out / name / "dataset-metadata.json", metadata)
    _tell(out)


def copy_code(out: Path) -> None:
    """Copy the packages, the settings and the lock files; products and caches stay."""
    files = [paths.CHECKOUT / name for name in TOP_FILES if (paths.CHECKOUT / name).is_file()]
    files += (paths.CHECKOUT / "settings").glob("*.toml")
    for package in PACKAGES:
        files += [file for file in sorted((paths.CHECKOUT / package).rglob("*")) if _is_code(file)]
    for file in files:
        _copy(file, out / file.relative_to(paths.CHECKOUT))


def _is_code(file: Path) -> bool:
    inside = file.relative_to(paths.CHECKOUT)
    product = inside.parts[0] == "submissions" and len(inside.parts) == 2 and file.suffix != ".py"
    return file.is_file() and file.suffix in _CODE and not product and _NOT_CODE.isdisjoint(inside.parts)


def copy_run(settings: Settings, out: Path) -> None:
    """Copy what predicting reads of a finished run, each file checked against its manifest first."""
    for folder in (paths.prepared(), paths.store()):
        _copy_product(folder, [], out)
    for network in settings.models.networks:
        for fold in range(settings.input.folds):
            folder = paths.model_run(network, fold)
            there = read_manifest(folder)["files"]
            names = [GRAPH, GRAPH_WEIGHTS] if GRAPH in there else ["weights.npz"]
            _copy_product(folder, [*names, *(["scale.npz"] if "scale.npz" in there else [])], out)
    folder = paths.ensemble_run()
    trees = [name for name in read_manifest(folder)["files"] if name.startswith("trees/final/")]
    _copy_product(folder, ["models.json", *trees], out)
    write_text(out / "settings.toml", settings_text(settings))
    if ensemble_artifact(settings).stale_reason():
        raise UserError("The run changed while it was packed; run kaggle-dataset again")


def _copy_product(folder: Path, names: list[str], out: Path) -> None:
    verify(folder, names)
    target = out / folder.relative_to(paths.root())
    for name in (*names, MANIFEST):
        _copy(folder / name, target / name)


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(file, target)


def settings_text(settings: Settings) -> str:
    """The resolved settings as TOML that `load_settings` reads; no path of this machine is among them."""
    return "# The resolved settings of the packed run.\n" + "\n".join(_toml(settings.without_place())) + "\n"


def _toml(table: dict[str, Any], name: str = "") -> list[str]:
    """Lines of a table: its values, then its sub-tables. JSON's numbers, texts and lists are TOML's too."""
    values = [f"{key} = {json.dumps(value)}" for key, value in table.items() if not isinstance(value, dict)]
    lines = [f"\n[{name}]", *values] if name else values
    for key, value in table.items():
        if isinstance(value, dict):
            lines += _toml(value, f"{name}.{key}" if name else key)
    return lines


def download_command(out: Path, python: str = "") -> list[str]:
    """The command that fills the wheels' folder from the lock; it takes the wheels that suit its own Python.

    Args:
        out: as given to `pack`.
        python: a Python of Kaggle's version on Linux x86-64 (`!python --version` in a notebook tells it), e.g.
            python3.11; this process's when empty.
    """
    options = ["--only-binary", ":all:", "--require-hashes", "--no-deps"]
    files = ["-d", str(out / WHEELS), "-r", str(out / WHEELS / "requirements.lock")]
    return [python or sys.executable, "-m", "pip", "download", *options, *files]


def download_wheels(out: Path, python: str = "") -> None:
    """Run `download_command`.

    Raises:
        UserError: pip failed, or the Python has none.
    """
    command = download_command(out, python)
    if subprocess.run([*command[:3], "--version"], capture_output=True).returncode:
        raise UserError(
            f"{command[0]} has no pip (an environment that uv made has none): name one that has, --python python3"
        )
    if subprocess.run(command).returncode:
        raise UserError("pip download failed, its lines above say why; the same command goes on with what is missing")


def _tell(out: Path) -> None:
    size = sum(file.stat().st_size for file in (out / ENSEMBLE).rglob("*") if file.is_file())
    say(f"{paths.shown(out / ENSEMBLE)}: {size / 1e6:.1f} MB, {project()['name']} {project()['version']}")
    say("next:")
    say(f"  {' '.join(download_command(out))}")
    for name in (ENSEMBLE, WHEELS):
        say(f"  kaggle datasets create -p {paths.shown(out / name)} --dir-mode zip")
    say("  python -m submissions notebook --out pe.ipynb")
