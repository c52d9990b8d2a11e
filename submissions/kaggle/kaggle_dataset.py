"""Data sets for a Kaggle notebook without Internet.

    OUT/pe-ensemble/
        code/              the packages of this checkout, the settings, the lock files
        model/             the finished experiment, as ./run.sh export packs it (submissions.packed_model)
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

from pipeline import paths
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.files import write_json
from pipeline.settings import Settings
from submissions.packed_model import write_model_folder
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
    write_model_folder(settings, out / ENSEMBLE / "model")
    copy_code(out / ENSEMBLE / "code")
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
