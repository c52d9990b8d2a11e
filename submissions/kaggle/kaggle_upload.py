"""A submission on its way to Kaggle, through Kaggle's own command line; nothing is sent unless one says so.

The contest took notebooks: there a file is submitted as the output of a notebook's version (`--kernel`, `--version`).
The token stays where the command line keeps it: this module neither reads nor passes it on, and what looks like one
in the command's output is blanked.
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
#: What Kaggle answers (patterns, lower case) -> what it means and what to do. The first that fits is told. A code is a
#: word of its own: 401 is also in line 1401.
_ANSWERS: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        (r"could not find kaggle\.json", "kaggle_username", r"\b401\b", "unauthenticated", "unauthorized"),
        "Kaggle does not know you: make a token on kaggle.com (Settings, API), put it into ~/.kaggle/kaggle.json or "
        "KAGGLE_API_TOKEN, chmod 600",
    ),
    (
        ("accept the competition rules", r"competitions\.participate"),
        "the rules are not accepted: open https://www.kaggle.com/c/{competition}/rules while logged in, accept, "
        "and run this again",
    ),
    (
        ("only accepts submissions from", "notebooks only", "code competition", "kernels-only", "from notebooks"),
        "this competition takes a notebook's output, not a file: python -m submissions notebook --out pe.ipynb, run "
        "it on Kaggle, then upload --kernel USER/NOTEBOOK --version N",
    ),
    (
        # Before the next answer: the refusal begins with the same words, "Submission not allowed".
        ("submission limit", "daily", "submission allowance", "too many requests", r"\b429\b"),
        "today's number of submissions is used up; try again tomorrow (UTC)",
    ),
    (
        ("late submission", "competition has ended", "is closed", "deadline has passed", "submission not allowed"),
        "the competition is closed and does not take late submissions of this kind",
    ),
    (
        (r"\b403\b", "forbidden"),
        "forbidden: either the rules are not accepted (https://www.kaggle.com/c/{competition}/rules) or the token "
        "is not yours or has expired (make a new one: kaggle.com, Settings, API)",
    ),
    ((r"\b404\b", "not found"), "there is no competition {competition} for this account: is the name right?"),
    (
        ("connection", "timed out", "name resolution", "proxy", "ssl"),
        "kaggle.com was not reached: is this machine connected?",
    ),
)


@dataclasses.dataclass(frozen=True)
class Upload:
    """One file, and how it is sent."""

    file: Path
    competition: str = COMPETITION
    message: str = ""
    kernel: str = ""
    version: str = ""

    def command(self) -> list[str]:
        """The exact command line."""
        name = self.file.name if self.kernel else str(self.file)  # of a notebook's output, the name in it
        words = ["kaggle", "competitions", "submit", "-c", self.competition, "-f", name, "-m", self.message]
        return words + (["-k", self.kernel, "-v", self.version] if self.kernel else [])


def upload(order: Upload, data: Path, *, really: bool = False) -> None:
    """Check a submission, show the command, and send it when `really`.

    Args:
        order: what is sent.
        data: the contest tree with test.csv, against which the file is checked.
        really: without it nothing is sent.

    Raises:
        UserError: the file is not valid, the command line is missing, or Kaggle refused; in words.
    """
    _require_pair(order)
    faults = check_file(order.file, read_layout(data))
    if faults:
        raise UserError.listing(f"{paths.shown(order.file)}: not sent, it is not valid:", map(str, faults))
    say(f"{paths.shown(order.file)}: valid")
    say(f"{'running' if really else 'would run'}: {shlex.join(order.command())}")
    if not really:
        say("nothing was sent; --really sends it")
        return
    if (data / MANIFEST).is_file():
        raise UserError(f"{paths.shown(data)}: a drawn contest; Kaggle knows none of its exams. Nothing was sent")
    say(send(order))
    if order.competition == COMPETITION:
        say("the contest ended in 2020: a late submission is scored, not ranked")
    say(f"its score: kaggle competitions submissions -c {order.competition}")


def send(order: Upload) -> str:
    """Run the command; what it said when it succeeded, without tokens.

    Raises:
        UserError: no command line, no end, or Kaggle refused.
    """
    command = order.command()
    program = shutil.which(command[0])
    if program is None:
        raise UserError(
            "the `kaggle` command is not on PATH: install it (pipx install kaggle, or pip install kaggle in an "
            "environment of its own) and make a token on kaggle.com (Settings, API)"
        )
    try:
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, timeout=SECONDS)
    except subprocess.TimeoutExpired as fault:
        raise UserError(
            f"kaggle did not end within {SECONDS} s; see whether it arrived before sending again"
        ) from fault
    said = without_tokens(f"{done.stdout}\n{done.stderr}").strip()
    # Some versions of the command line report a refusal with status 0.
    if done.returncode or "successfully submitted" not in said.lower():
        raise UserError(f"not accepted: {meaning(said, order.competition)}\nkaggle said: {_last_lines(said)}")
    return _last_lines(said)


def without_tokens(text: str) -> str:
    """The text with everything blanked that is, or looks like, a Kaggle token."""
    for name in ("KAGGLE_KEY", "KAGGLE_API_TOKEN"):
        if os.environ.get(name):
            text = text.replace(os.environ[name], "***")
    return _TOKENS.sub("***", text)


def meaning(said: str, competition: str) -> str:
    """Kaggle's refusal in words: what it means and what to do."""
    lowered = said.lower()
    for marks, words in _ANSWERS:
        if any(re.search(mark, lowered) for mark in marks):
            return words.format(competition=competition)
    return "for a reason that this program does not know"


def _last_lines(said: str) -> str:
    lines = [line.rpartition("\r")[2].strip() for line in said.splitlines() if line.strip()]
    return "\n".join(lines[-5:]) or "nothing"


def _require_pair(order: Upload) -> None:
    if bool(order.kernel) != bool(order.version):
        raise UserError("--kernel USER/NOTEBOOK and --version N belong together")
