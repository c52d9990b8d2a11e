"""The notebook that runs the finished ensemble on Kaggle, without Internet, within the limits of a code competition.

It attaches the contest and the two data sets of submissions.kaggle.kaggle_dataset, installs the wheels into a folder of its
own, links the finished run into a PE_ROOT under /kaggle/working, predicts the test exams a group at a time (pixels
of one group on disk), checks the submission and leaves nothing but it and the list of slices that it could not read.
"""

from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from pipeline import paths
from pipeline.console import say
from pipeline.files import write_json, write_text
from submissions.kaggle.kaggle_dataset import ENSEMBLE, WHEELS
from submissions.kaggle.kaggle_upload import COMPETITION
from submissions.software_name import RESEARCH_USE_ONLY, project

#: Hours after which the exams that are left get the prior; a notebook of the contest ends after nine.
HOURS = 8.5

_INTRODUCTION = """# Pulmonary embolism: submission of a finished ensemble

{research}

**Attach** (Add input): the competition `{competition}`, the data sets `{ensemble}` (code and finished run) and
`{wheels}` (Python packages). **Turn the Internet off.** A CPU is enough where the run holds exported networks, which
OpenVINO runs; those of a run on a GPU go through Keras, which is slower on a CPU.

Pixels of a few exams at a time lie in `/kaggle/working`; `submission.csv` stays there and, where slices could not be
read, their list in `submission_unread.csv`. After {hours:g} hours the exams that are left get the prior, so that there
is a valid file within the limit of nine hours.
"""

_PLACES = '''import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

INPUT = Path(os.environ.get("PE_KAGGLE_INPUT", "/kaggle/input"))  # read-only
WORKING = Path(os.environ.get("PE_KAGGLE_WORKING", "/kaggle/working"))
HOURS = float(os.environ.get("PE_KAGGLE_HOURS", "{hours:g}"))


def find(name):
    """The attached file that ends in `name`; data sets lie one to three folders below INPUT."""
    for depth in (1, 2, 3):
        found = sorted(INPUT.glob("*/" * depth + name))
        if found:
            return found[0]
    raise FileNotFoundError(f"{{name}}: in no data set below {{INPUT}}; attach the inputs that the first cell names")


def run(*command, **environment):
    """Run a command, show its lines as they come, stop the notebook when it fails."""
    command = [str(part) for part in command]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={{**os.environ, **environment}}
    ) as process:
        for line in process.stdout:
            print(line, end="", flush=True)
    if process.returncode:
        raise RuntimeError(f"status {{process.returncode}}: {{' '.join(command)}}")


CODE = find("code/submissions/__main__.py").parent.parent
RUN = find("run/settings.toml").parent
DATA = find("test.csv").parent
print(CODE, RUN, DATA, sep="\\n")'''

_PACKAGES = """PYTHON, SITE = os.environ.get("PE_PYTHON"), []
if PYTHON is None:  # else: a Python that has the packages already
    PYTHON, SITE = sys.executable, [str(Path(tempfile.gettempdir()) / "pe-site")]
    lock = find("requirements.lock")
    run(
        PYTHON, "-m", "pip", "install", "--quiet", "--no-index", "--find-links", lock.parent, "--require-hashes",
        "--no-deps", "--target", SITE[0], "-r", lock,
    )"""

_ROOT = """ROOT = WORKING / "pe"  # what is finished is linked, what is made lies beside it
for name in ("input/prepared", "features/store", "models/runs", "ensemble/runs"):
    link = ROOT / name
    link.parent.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(RUN / name)
ENVIRONMENT = {
    "PE_ROOT": str(ROOT), "PYTHONPATH": os.pathsep.join([str(CODE), *SITE]), "PYTHONSAFEPATH": "1",
    "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1", "TF_CPP_MIN_LOG_LEVEL": "2",
}"""

_PREDICT = """SUBMISSION = WORKING / "submission.csv"
run(
    PYTHON, "-m", "inference", "predict", DATA, "--settings", RUN / "settings.toml",
    "--submission", SUBMISSION, "--hours", HOURS, **ENVIRONMENT,
)"""

_CHECK = """run(PYTHON, "-m", "submissions", "check", SUBMISSION, "--data", DATA, **ENVIRONMENT)
shutil.rmtree(ROOT)
print("".join(SUBMISSION.open().readlines()[:5]), shutil.disk_usage(WORKING))"""


def inference_notebook() -> nbformat.NotebookNode:
    """The notebook, not yet run."""
    words = {
        "research": RESEARCH_USE_ONLY, "competition": COMPETITION, "ensemble": ENSEMBLE, "wheels": WHEELS,
        "hours": HOURS,
    }  # fmt: skip
    cells = [new_markdown_cell(_INTRODUCTION.format(**words)), new_code_cell(_PLACES.format(**words))]
    cells += [new_code_cell(source) for source in (_PACKAGES, _ROOT, _PREDICT, _CHECK)]
    for number, cell in enumerate(cells):
        cell["id"] = f"cell-{number}"  # random ids would make every export another file
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return new_notebook(cells=cells, metadata={"kernelspec": kernel, "language_info": {"name": "python"}})


def write_notebook(out: Path, *, user: str = "") -> None:
    """Write the notebook and, with a Kaggle user's name, kernel-metadata.json beside it for `kaggle kernels push`."""
    notebook = inference_notebook()
    nbformat.validate(notebook)
    write_text(out, nbformat.writes(notebook) + "\n")
    say(f"{paths.shown(out)}: attach {COMPETITION}, {ENSEMBLE} and {WHEELS}; Internet off")
    if user:
        write_json(out.with_name("kernel-metadata.json"), kernel_metadata(out, user))
        say(f"send it: kaggle kernels push -p {paths.shown(out.parent)}")


def kernel_metadata(out: Path, user: str) -> dict:
    """What `kaggle kernels push` reads: private, no Internet, with its inputs."""
    return {
        "id": f"{user}/{out.stem}", "title": out.stem, "code_file": out.name, "language": "python",
        "kernel_type": "notebook", "is_private": True, "enable_gpu": False, "enable_internet": False,
        "dataset_sources": [f"{user}/{ENSEMBLE}", f"{user}/{WHEELS}"], "competition_sources": [COMPETITION],
        "kernel_sources": [], "keywords": [project()["name"]],
    }  # fmt: skip
