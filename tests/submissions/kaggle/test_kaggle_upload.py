"""A submission is checked, shown, and sent through a `kaggle` command; here through one that only pretends."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from ensemble.decode import decode
from pipeline.errors import UserError
from submissions.kaggle.kaggle_upload import Upload, meaning, send, upload, without_tokens
from submissions.kaggle_csv import read_layout, write_submission
from tests.support.submission_cases import draw_labels, predict, write_tree

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A contest tree with a valid submission in it."""
    train, test = draw_labels(6, seed=1), draw_labels(6, seed=2, first=100)
    write_tree(tmp_path / "contest", train, test)
    write_submission(tmp_path / "good.csv", *decode(*predict(test, 1.0, seed=3)), read_layout(tmp_path / "contest"))
    return tmp_path / "contest"


def pretend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, status: int = 0) -> Path:
    """Put a `kaggle` on PATH that keeps its arguments and says something; the file with the arguments."""
    program = tmp_path / "bin" / "kaggle"
    program.parent.mkdir()
    calls = tmp_path / "calls"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {calls}\necho {shlex.quote(said)}\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return calls


def test_without_really_only_the_command_is_shown(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = pretend(tmp_path, monkeypatch, "must not run")
    upload(Upload(tmp_path / "good.csv", message="two words"), tree)
    shown = capsys.readouterr().out
    command = f"kaggle competitions submit -c rsna-str-pulmonary-embolism-detection -f {tmp_path}/good.csv"
    assert f"would run: {command} -m 'two words'" in shown
    assert "nothing was sent" in shown and not calls.exists()


def test_a_valid_file_is_sent_and_no_token_is_shown(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "swordfish")
    calls = pretend(tmp_path, monkeypatch, f"key swordfish {TOKEN} KGAT_abc\nSuccessfully submitted to RSNA")
    upload(Upload(tmp_path / "good.csv", message="first"), tree, really=True)
    assert calls.read_text().split("\n")[:7] == [
        "competitions", "submit", "-c", "rsna-str-pulmonary-embolism-detection", "-f", f"{tmp_path}/good.csv", "-m",
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "Successfully submitted to RSNA" in shown
    assert not any(secret in shown for secret in ("swordfish", TOKEN, "KGAT_abc"))


def test_a_notebook_s_output_is_named_with_its_version(tmp_path: Path) -> None:
    order = Upload(tmp_path / "submission.csv", kernel="me/pe", version="3")
    assert order.command()[5:7] == ["-f", "submission.csv"]
    assert order.command()[-4:] == ["-k", "me/pe", "-v", "3"]
    with pytest.raises(UserError, match="belong together"):
        upload(Upload(tmp_path / "submission.csv", kernel="me/pe"), tmp_path)


def test_an_invalid_file_is_never_sent(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(tmp_path, monkeypatch, "Successfully submitted")
    rows = pd.read_csv(tmp_path / "good.csv")
    rows.iloc[1:].to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(UserError, match="missing id"):
        upload(Upload(tmp_path / "bad.csv"), tree, really=True)
    assert not calls.exists()


def test_a_drawn_contest_is_never_sent(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = pretend(tmp_path, monkeypatch, "Successfully submitted")
    (tree / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="drawn contest"):
        upload(Upload(tmp_path / "good.csv"), tree, really=True)
    assert not calls.exists()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("403 - You cannot submit until you accept the competition rules", "rsna.*/rules while logged in"),
        ("403 - Forbidden - Permission 'competitions.participate' was denied", "the rules are not accepted"),
        ("403 Client Error: Forbidden for url", "either the rules are not accepted .* or the token"),
        ("Could not find kaggle.json. Make sure it's located in ~/.kaggle", "Kaggle does not know you"),
        ("401 - Unauthorized", "make a token"),
        ("400 - This competition only accepts Submissions from Notebooks", "takes a notebook's output"),
        ("400 - Late submissions are disabled: competition has ended", "closed"),
        ("404 - Not Found", "is the name right"),
        ("Max retries exceeded: Name resolution failed", "not reached"),
        ("400 - Your team has reached its daily submission limit", "today's number"),
        ("400 - Submission not allowed: Your team has used its Submission allowance (5 of 5)", "today's number"),
        ("400 - Submission file exceeds the size limit", "this program does not know"),
        ("kaggle/api.py, line 1401, in submit: 500 Server Error", "this program does not know"),
        ("something new", "this program does not know"),
    ],
)
def test_a_refusal_is_told_in_words(said: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(tmp_path, monkeypatch, f"{said} {TOKEN}", status=0)  # some versions end with 0 all the same
    with pytest.raises(UserError, match=words) as fault:
        send(Upload(tmp_path / "good.csv"))
    assert TOKEN not in str(fault.value) and said in str(fault.value)


def test_a_missing_command_line_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="install it"):
        send(Upload(tmp_path / "good.csv"))


def test_tokens_are_blanked_wherever_they_stand() -> None:
    assert without_tokens('{"username": "me", "key": "secret"}') == '{"username": "me", "key": "***"}'
    assert meaning("429 - Too many requests", "x").startswith("today's number")
