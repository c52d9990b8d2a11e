"""The notebook for Kaggle and its data sets: their contents, and one complete run without Internet."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pandas as pd
import pytest

from input.contest import SERIES, SOP, STUDY
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import sha256
from pipeline.load_settings import load_settings
from pipeline.settings import Settings
from pipeline.settings_text import settings_text
from submissions.check_submission import check_file
from submissions.finished_run import read_candidates
from submissions.kaggle.kaggle_dataset import copy_code, download_command, download_wheels, pack
from submissions.kaggle.kaggle_notebook import inference_notebook, kernel_metadata, write_notebook
from submissions.kaggle_csv import read_layout
from submissions.write_submission import write_candidate
from tests.support.small_run import OPTIONS, select


def test_the_notebook_is_valid_compiles_and_is_reproducible(tmp_path: Path) -> None:
    write_notebook(tmp_path / "pe.ipynb", user="me")
    notebook = nbformat.read(tmp_path / "pe.ipynb", as_version=4)
    nbformat.validate(notebook)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            compile(cell.source, cell.id, "exec")
    text = (tmp_path / "pe.ipynb").read_text()
    write_notebook(tmp_path / "pe.ipynb")
    assert (tmp_path / "pe.ipynb").read_text() == text
    assert "http" not in text and text.count("--no-index") == text.count('\\"install\\"') == 1
    assert "Research use only" in notebook.cells[0].source
    assert "kernel-metadata.json" in {file.name for file in tmp_path.iterdir()}
    sources = kernel_metadata(tmp_path / "pe.ipynb", "me")
    assert sources["enable_internet"] is False and sources["dataset_sources"] == ["me/pe-ensemble", "me/pe-wheels"]


@pytest.mark.parametrize("file", ["tests.toml", "phantom.toml", "rsna.toml"])
def test_packaged_settings_read_back_unchanged(file: str, tmp_path: Path) -> None:
    settings = load_settings(f"settings/{file}")
    (tmp_path / "settings.toml").write_text(settings_text(settings.without_paths(), "packaged"))
    assert load_settings(tmp_path / "settings.toml") == settings


def test_the_code_is_packaged_without_artifacts(tmp_path: Path) -> None:
    copy_code(tmp_path)
    packed = {file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*") if file.is_file()}
    assert {"run.sh", "inference/predict_contest.py", "inference/evidence/page.html.j2"} <= packed
    assert {"input/phantom/label_states.json", "submissions/model_card.md.j2"} <= packed
    assert "requirements-cpu.lock" in packed and "settings/rsna.toml" in packed
    assert not [name for name in packed if name.endswith((".pyc", ".csv", ".parquet", ".npz", "manifest.json"))]


def test_the_wheels_are_those_of_the_lock_for_the_given_python(tmp_path: Path) -> None:
    command = download_command(tmp_path, "python3.12")
    assert command[:4] == ["python3.12", "-m", "pip", "download"]
    assert {"--require-hashes", "--only-binary", "--no-deps"} <= set(command)
    assert command[-1] == str(tmp_path / "pe-wheels" / "requirements.lock")
    assert download_command(tmp_path)[0] == sys.executable


def test_a_python_without_pip_is_an_error(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'No module named pip' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(UserError, match="has no pip"):
        download_wheels(tmp_path, str(python))


@pytest.mark.skipif(find_spec("pip") is None, reason="an environment made by uv has no pip; Kaggle's has")
def test_packages_come_from_the_attached_wheels_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheels = tmp_path / "input" / "pe-wheels"
    digest = write_wheel(wheels / "tinywheel-1.0-py3-none-any.whl")
    (wheels / "requirements.lock").write_text(f"tinywheel==1.0 --hash=sha256:{digest}\n")
    for name in ("pe/code/submissions/__main__.py", "pe/model/model.json", "rsna/test.csv"):
        (tmp_path / "input" / name).parent.mkdir(parents=True)
        (tmp_path / "input" / name).write_text("")
    monkeypatch.setenv("PE_KAGGLE_INPUT", str(tmp_path / "input"))
    monkeypatch.delenv("PE_PYTHON", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    variables: dict = {}
    for cell in inference_notebook().cells[1:3]:
        exec(cell.source, variables)
    assert variables["DATA"] == tmp_path / "input" / "rsna" and variables["PYTHON"] == sys.executable
    assert (tmp_path / "pe-site" / "tinywheel.py").read_text() == "VALUE = 7\n"
    with pytest.raises(RuntimeError, match="status 3"):
        variables["run"](sys.executable, "-c", "raise SystemExit(3)")
    with pytest.raises(FileNotFoundError, match="Attach the inputs"):
        variables["find"]("nothing.txt")


def test_wheels_for_another_python_are_reported_before_pip_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheels = tmp_path / "input" / "pe-wheels"
    wheels.mkdir(parents=True)
    for name in ("requirements.lock", "numpy-2.0-cp398-cp398-manylinux.whl", "keras-3-py3-none-any.whl"):
        (wheels / name).write_text("")
    for name in ("pe/code/submissions/__main__.py", "pe/model/model.json", "rsna/test.csv"):
        (tmp_path / "input" / name).parent.mkdir(parents=True)
        (tmp_path / "input" / name).write_text("")
    monkeypatch.setenv("PE_KAGGLE_INPUT", str(tmp_path / "input"))
    monkeypatch.delenv("PE_PYTHON", raising=False)
    names: dict = {}
    folders, packages = inference_notebook().cells[1:3]
    exec(folders.source, names)
    with pytest.raises(RuntimeError, match=r"The wheels are for Python 3\.98, this notebook has 3\."):
        exec(packages.source, names)


@pytest.mark.parametrize(("name", "title"), [("pe.ipynb", "pe-notebook"), ("lungs.ipynb", "lungs")])
def test_a_title_has_at_least_the_five_characters_that_kaggle_demands(name: str, title: str) -> None:
    metadata = kernel_metadata(Path(name), "me")
    assert metadata["title"] == title and metadata["id"] == f"me/{title}" and metadata["code_file"] == name


def write_wheel(path: Path) -> str:
    """A wheel with one module; its sha256."""
    path.parent.mkdir(parents=True)
    info = "tinywheel-1.0.dist-info"
    files = {
        "tinywheel.py": "VALUE = 7\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: tinywheel\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"tinywheel.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return sha256(path)


def test_a_folder_that_is_not_empty_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        pack(Settings(), tmp_path)


def attached(finished: Path, folder: Path) -> Path:
    """Write the folder /kaggle/input: two data sets of the run, and the contest with one broken slice."""
    environment = {**os.environ, "PE_ROOT": str(finished)}
    command = [sys.executable, "-m", "submissions", "kaggle-dataset", *OPTIONS, "--out", str(folder / "input")]
    subprocess.run(command, cwd=paths.CHECKOUT, env=environment, check=True, capture_output=True)
    contest = folder / "input" / "competitions" / "rsna"
    generated = next((finished / "artifacts" / "input").glob("raw-*"))
    shutil.copytree(generated / "test", contest / "test")
    for name in ("test.csv", "sample_submission.csv"):
        shutil.copyfile(generated / name, contest / name)
    first = pd.read_csv(contest / "test.csv", dtype=str).iloc[0]
    broken = contest / "test" / first[STUDY] / first[SERIES] / f"{first[SOP]}.dcm"
    broken.write_bytes(broken.read_bytes()[:400])
    return contest


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::RuntimeWarning", "ignore::UserWarning")
def test_the_notebook_predicts_the_contest_without_internet(
    small_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nbclient import NotebookClient

    contest = attached(small_run, tmp_path)
    (tmp_path / "working").mkdir()
    for name in ("PE_ROOT", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    folders = {"PE_KAGGLE_INPUT": "input", "PE_KAGGLE_WORKING": "working"}
    for name, value in folders.items():
        monkeypatch.setenv(name, str(tmp_path / value))
    monkeypatch.setenv("PE_PYTHON", sys.executable)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # any request to the Internet fails at once
    notebook = inference_notebook()
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(tmp_path / "working")}}).execute()

    layout = read_layout(contest)
    assert check_file(tmp_path / "working" / "submission.csv", layout) == []
    assert {file.name for file in (tmp_path / "working").iterdir()} == {"submission.csv", "submission_unread.csv"}
    predicted = pd.read_csv(tmp_path / "working" / "submission.csv").set_index("id")["label"]
    select(small_run, monkeypatch)
    candidates = read_candidates(paths.ensemble_run())
    write_candidate(tmp_path / "expected.csv", *candidates.predictions(candidates.promoted, "test"), layout)
    expected = pd.read_csv(tmp_path / "expected.csv").set_index("id")["label"]
    intact = layout.ids[~layout.ids.str.startswith(layout.studies[0])]
    intact = intact.difference(layout.slices.loc[layout.slices[STUDY] == layout.studies[0], SOP])
    assert len(intact) > 20
    assert (predicted[intact] - expected[intact]).abs().max() <= 2e-6
    unread = pd.read_csv(tmp_path / "working" / "submission_unread.csv", dtype=str)
    assert unread[SOP].tolist() == [layout.slices[SOP].iloc[0]]
