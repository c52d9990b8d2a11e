"""Upload of a submission with Kaggle's own command line; nothing is sent without --really.

The contest accepts notebooks: a file is submitted as the output of a notebook's version (`--kernel`, `--version`).
The token stays where the command line keeps it: this module neither reads nor passes it on, and removes anything that
looks like one from the command's output.
"""

import dataclasses
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

from pipeline import paths
from pipeline.artifact import MANIFEST
from pipeline.console import say
from pipeline.errors import UserError
from submissions.check_submission import check_file
from submissions.kaggle_csv import read_layout

COMPETITION = "rsna-str-pulmonary-embolism-detection"
SECONDS = 1800
_TOKENS = re.compile(r"KGAT_\w+|\b[0-9a-f]{32}\b|(?<=[\"']key[\"']: [\"'])[^\"']+")
#: Patterns in Kaggle's output (lower case) -> the cause and the next step; the first match counts. Status codes are
#: matched as whole words: 401 also occurs in "line 1401".
_REFUSALS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (r"could not find kaggle\.json", "kaggle_username", r"\b401\b", "unauthenticated", "unauthorized"),
        "Not authenticated. Create a token on kaggle.com (Settings, API), save it in ~/.kaggle/kaggle.json (chmod 600) "
        "or set KAGGLE_API_TOKEN.",
    ),
    (
        ("accept the competition rules", r"competitions\.participate"),
        "The competition's rules are not accepted. Log in, accept them at "
        "https://www.kaggle.com/c/{competition}/rules, and run the command again.",
    ),
    (
        ("only accepts submissions from", "notebooks only", "code competition", "kernels-only", "from notebooks"),
        "The competition accepts the output of a notebook, not a file. Write one (./run.sh notebook --out pe.ipynb), "
        "run it on Kaggle, then add --kernel USER/NOTEBOOK --version N to this command.",
    ),
    (
        # Before the next entry, because this refusal also begins with "Submission not allowed".
        ("submission limit", "daily", "submission allowance", "too many requests", r"\b429\b"),
        "The daily limit of submissions is reached. Try again tomorrow (UTC).",
    ),
    (
        ("late submission", "competition has ended", "is closed", "deadline has passed", "submission not allowed"),
        "The competition is closed and does not accept late submissions of this kind.",
    ),
    (
        (r"\b403\b", "forbidden"),
        "Forbidden. Accept the rules (https://www.kaggle.com/c/{competition}/rules), or create a new token if it is "
        "invalid or expired (kaggle.com, Settings, API).",
    ),
    (
        (r"\b404\b", "not found"),
        "No competition {competition} for this account. Check the name (--competition).",
    ),
    (
        ("connection", "timed out", "name resolution", "proxy", "ssl"),
        "kaggle.com cannot be reached. Check the network connection.",
    ),
)


@dataclasses.dataclass(frozen=True)
class Upload:
    """A submission file and the options of its upload.

    Attributes:
        file: the submission; with `kernel`, only its name is used.
        competition: the competition's name in its URL.
        message: description of the submission.
        kernel: USER/NOTEBOOK whose output the file is; empty for a plain file.
        version: the notebook's version.
    """

    file: Path
    competition: str = COMPETITION
    message: str = ""
    kernel: str = ""
    version: str = ""

    def command(self) -> list[str]:
        """The exact command line."""
        name = self.file.name if self.kernel else str(self.file)
        words = ["kaggle", "competitions", "submit", "-c", self.competition, "-f", name, "-m", self.message]
        return words + (["-k", self.kernel, "-v", self.version] if self.kernel else [])


def upload(request: Upload, data: Path, *, really: bool = False) -> None:
    """Check a submission, print the command, and upload it if `really`.

    Args:
        request: the file and the options of its upload.
        data: the contest tree with test.csv, which defines the expected rows.
        really: whether to upload.

    Raises:
        UserError: the file is not valid, the command line is missing, or Kaggle refused the submission.
    """
    _require_kernel_with_version(request)
    faults = check_file(request.file, read_layout(data))
    if faults:
        raise UserError.listing(f"Not uploaded, the file is not valid: {paths.shown(request.file)}:", map(str, faults))
    say(f"{paths.shown(request.file)}: valid")
    say(f"{'running' if really else 'would run'}: {shlex.join(request.command())}")
    if not really:
        say("nothing was uploaded; add --really to upload it")
        return
    if (data / MANIFEST).is_file():
        raise UserError(
            f"Not uploaded, the contest is synthetic: {paths.shown(data)}. Give the contest's own tree with --data."
        )
    say(send(request))
    if request.competition == COMPETITION:
        say("the contest ended in 2020: a late submission is scored but not ranked")
    say(f"its score: kaggle competitions submissions -c {request.competition}")


def send(request: Upload) -> str:
    """Run the upload command.

    Returns:
        The last lines of its output, without tokens.

    Raises:
        UserError: the command is not installed, timed out, or Kaggle refused the submission.
    """
    command = request.command()
    program = shutil.which(command[0])
    if program is None:
        raise UserError(
            "The `kaggle` command is not on PATH. Install it (pipx install kaggle) and create a token on kaggle.com "
            "(Settings, API)."
        )
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as fault:
        raise UserError(
            f"The kaggle command did not finish within {SECONDS} s. Check whether the submission arrived before "
            "uploading it again."
        ) from fault
    output = without_tokens(f"{done.stdout}\n{done.stderr}").strip()
    # Some versions of the command line report a refusal with status 0.
    if done.returncode or "successfully submitted" not in output.lower():
        raise UserError(
            f"Kaggle did not accept the submission. {explain(output, request.competition)}\nOutput of kaggle: "
            f"{_last_lines(output)}"
        )
    return _last_lines(output)


def without_tokens(text: str) -> str:
    """The text with everything that is, or looks like, a Kaggle token replaced by ***."""
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return _TOKENS.sub("***", text)


def explain(output: str, competition: str) -> str:
    """The cause of Kaggle's refusal and the next step.

    Args:
        output: of the kaggle command.
        competition: the competition's name in its URL.
    """
    lowered = output.lower()
    for patterns, explanation in _REFUSALS:
        if any(re.search(pattern, lowered) for pattern in patterns):
            return explanation.format(competition=competition)
    return "The reason is unknown to this program."


def _last_lines(output: str) -> str:
    lines = [line.rpartition("\r")[2].strip() for line in output.splitlines() if line.strip()]
    return "\n".join(lines[-5:]) or "nothing"


def _require_kernel_with_version(request: Upload) -> None:
    if bool(request.kernel) != bool(request.version):
        raise UserError("--kernel USER/NOTEBOOK and --version N must be given together.")
