"""The notebook that runs the finished ensemble on Kaggle, without Internet, within the limits of a code competition.

Its inputs are the contest and the two data sets of submissions.kaggle.kaggle_dataset. It installs the wheels into a
separate folder, unpacks the finished experiment into a PE_ROOT under /kaggle/working, predicts the test exams group by
group (only the pixels of one group are on disk), checks the submission, and leaves only the submission and the list of
unreadable slices.
"""

from pathlib import Path
from typing import Any

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pipeline import paths
from pipeline.console import say
from pipeline.files import write_json, write_text
from submissions.kaggle.kaggle_dataset import ENSEMBLE, WHEELS
from submissions.kaggle.kaggle_upload import COMPETITION
from submissions.software_name import RESEARCH_USE_ONLY, project

#: Hours after which the remaining exams get the prior; the contest stops a notebook after nine hours.
HOURS = 8.5
#: Kaggle refuses shorter titles.
SHORTEST_TITLE = 5

_INTRODUCTION = """# Pulmonary embolism: submission of a finished ensemble

{research}

**Attach** (Add input): the competition `{competition}`, the data sets `{ensemble}` (code and finished run) and
`{wheels}` (Python packages). **Turn the Internet off.** A CPU is sufficient for a run with exported networks, which
OpenVINO runs; networks of a run on a GPU are run by Keras, which is slower on a CPU.

Only the pixels of a few exams at a time are stored in `/kaggle/working`. The outputs are `submission.csv` and, if
slices could not be read, their list in `submission_unread.csv`. After {hours:g} hours the remaining exams get the
prior, so that a valid file exists within the limit of nine hours.
"""

_FOLDERS = '''import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

INPUT = Path(os.environ.get("PE_KAGGLE_INPUT", "/kaggle/input"))  # read-only
WORKING = Path(os.environ.get("PE_KAGGLE_WORKING", "/kaggle/working"))
HOURS = float(os.environ.get("PE_KAGGLE_HOURS", "{hours:g}"))


def find(name):
    """The attached file whose path ends in `name`; data sets are one to three folders below INPUT."""
    for depth in (1, 2, 3):
        files = sorted(INPUT.glob("*/" * depth + name))
        if files:
            return files[0]
    raise FileNotFoundError(f"Not found below {{INPUT}}: {{name}}. Attach the inputs listed in the first cell.")


def run(*command, **environment):
    """Run a command and show its output; stop the notebook if it fails."""
    command = [str(part) for part in command]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={{**os.environ, **environment}}
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"status {{process.returncode}}: {{' '.join(command)}}")


CODE = find("code/submissions/__main__.py").parent.parent
MODEL = find("model/model.json").parent
DATA = find("test.csv").parent
print(CODE, MODEL, DATA, sep="\\n")'''

_PACKAGES = """PYTHON, SITE = os.environ.get("PE_PYTHON"), []
if PYTHON is None:  # otherwise a Python with the packages installed
    PYTHON, SITE = sys.executable, [str(Path(tempfile.gettempdir()) / "pe-site")]
    lock = find("requirements.lock")
    packed = set(re.findall("-cp(3[0-9]+)-cp3[0-9]+-", " ".join(wheel.name for wheel in lock.parent.glob("*.whl"))))
    mine = f"{sys.version_info.major}{sys.version_info.minor}"
    if packed and mine not in packed:
        versions = ", ".join(f"3.{version[1:]}" for version in sorted(packed))
        raise RuntimeError(
            f"The wheels are for Python {versions}, this notebook has {sys.version.split()[0]}. Download them for it: "
            "./run.sh kaggle-dataset --wheels --python python3.X"
        )
    run(
        PYTHON, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", lock.parent, "--require-hashes",
        "--no-deps", "--target", SITE[0], "-r", lock, PIP_USER="0",
    )"""

_ROOT = """ROOT = WORKING / "pe"  # the unpacked model and the predictions
ENVIRONMENT = {
    "PE_ROOT": str(ROOT), "PYTHONPATH": os.pathsep.join([str(CODE), *SITE]), "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
}"""

_PREDICT = """SUBMISSION = WORKING / "submission.csv"
run(
    PYTHON, "-m", "inference", "predict-contest", DATA, "--model", MODEL,
    "--out", SUBMISSION, "--hours", HOURS, **ENVIRONMENT,
)"""

_CHECK = """run(PYTHON, "-m", "submissions", "check-submission", SUBMISSION, "--data", DATA, **ENVIRONMENT)
shutil.rmtree(ROOT)
print("".join(SUBMISSION.open().readlines()[:5]), shutil.disk_usage(WORKING))"""


def inference_notebook() -> nbformat.NotebookNode:
    """The notebook, without outputs."""
    values = {
        "research": RESEARCH_USE_ONLY, "competition": COMPETITION, "ensemble": ENSEMBLE, "wheels": WHEELS,
        "hours": HOURS,
    }  # fmt: skip
    cells = [new_markdown_cell(_INTRODUCTION.format(**values)), new_code_cell(_FOLDERS.format(**values))]
    cells += [new_code_cell(source) for source in (_PACKAGES, _ROOT, _PREDICT, _CHECK)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # random ids would make every export a different file
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def write_notebook(out: Path, *, user: str = "") -> None:
    """Write the notebook and, for a Kaggle user, kernel-metadata.json beside it for `kaggle kernels push`."""
    notebook = inference_notebook()
    nbformat.validate(notebook)
    write_text(out, nbformat.writes(notebook) + "\n")
    say(f"{paths.shown(out)}: attach {COMPETITION}, {ENSEMBLE} and {WHEELS}; Internet off")
    if user:
        write_json(out.with_name("kernel-metadata.json"), kernel_metadata(out, user))
        say(f"upload it: kaggle kernels push -p {paths.shown(out.parent)}")


def kernel_metadata(out: Path, user: str) -> dict[str, Any]:
    """The metadata for `kaggle kernels push`: private, no Internet, with its inputs."""
    title = out.stem if len(out.stem) >= SHORTEST_TITLE else f"{out.stem}-notebook"
    return {
        "id": f"{user}/{title}", "title": title, "code_file": out.name, "language": "python",
        "kernel_type": "notebook", "is_private": True, "enable_gpu": False, "enable_internet": False,
        "dataset_sources": [f"{user}/{ENSEMBLE}", f"{user}/{WHEELS}"], "competition_sources": [COMPETITION],
        "kernel_sources": [], "keywords": [project()["name"]],
    }  # fmt: skip
