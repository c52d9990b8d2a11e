"""Upload of a submission through a fake `kaggle` command."""

import shlex
from pathlib import Path

import pandas as pd
import pytest

from ensemble.decode import decode
from pipeline.errors import UserError
from submissions.kaggle.kaggle_upload import Upload, explain, send, upload, without_tokens
from submissions.kaggle_csv import read_layout, write_submission
from tests.support.submission_cases import predict, random_labels, write_tree

TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A contest tree with a valid submission in it."""
    train, test = random_labels(6, seed=1), random_labels(6, seed=2, first=100)
    write_tree(tmp_path / "contest", train, test)
    write_submission(tmp_path / "good.csv", *decode(*predict(test, 1.0, seed=3)), read_layout(tmp_path / "contest"))
    return tmp_path / "contest"


def install_fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, status: int = 0) -> Path:
    """Put a fake `kaggle` on PATH that prints `output`.

    Returns:
        The file with the arguments of its last call.
    """
    program = tmp_path / "bin" / "kaggle"
    program.parent.mkdir()
    calls = tmp_path / "calls"
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {calls}\necho {shlex.quote(output)}\nexit {status}\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    return calls


def test_without_really_the_command_is_only_printed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = install_fake(tmp_path, monkeypatch, "must not run")
    upload(Upload(tmp_path / "good.csv", message="two words"), tree)
    shown = capsys.readouterr().out
    command = f"kaggle competitions submit -c rsna-str-pulmonary-embolism-detection -f {tmp_path}/good.csv"
    assert f"would run: {command} -m 'two words'" in shown
    assert "nothing was uploaded" in shown and not calls.exists()


def test_a_valid_file_is_uploaded_and_no_token_is_printed(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KAGGLE_KEY", "swordfish")
    calls = install_fake(tmp_path, monkeypatch, f"key swordfish {TOKEN} KGAT_abc\nSuccessfully submitted to RSNA")
    upload(Upload(tmp_path / "good.csv", message="first"), tree, really=True)
    assert calls.read_text().split("\n")[:7] == [
        "competitions", "submit", "-c", "rsna-str-pulmonary-embolism-detection", "-f", f"{tmp_path}/good.csv", "-m",
    ]  # fmt: skip
    shown = capsys.readouterr().out
    assert "Successfully submitted to RSNA" in shown
    assert not any(secret in shown for secret in ("swordfish", TOKEN, "KGAT_abc"))


def test_the_output_of_a_notebook_is_submitted_with_its_version(tmp_path: Path) -> None:
    request = Upload(tmp_path / "submission.csv", kernel="me/pe", version="3")
    assert request.command()[5:7] == ["-f", "submission.csv"]
    assert request.command()[-4:] == ["-k", "me/pe", "-v", "3"]
    with pytest.raises(UserError, match="must be given together"):
        upload(Upload(tmp_path / "submission.csv", kernel="me/pe"), tmp_path)


def test_an_invalid_file_is_never_uploaded(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = install_fake(tmp_path, monkeypatch, "Successfully submitted")
    rows = pd.read_csv(tmp_path / "good.csv")
    rows.iloc[1:].to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(UserError, match="missing id"):
        upload(Upload(tmp_path / "bad.csv"), tree, really=True)
    assert not calls.exists()


def test_a_submission_to_a_synthetic_contest_is_never_uploaded(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install_fake(tmp_path, monkeypatch, "Successfully submitted")
    (tree / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="synthetic"):
        upload(Upload(tmp_path / "good.csv"), tree, really=True)
    assert not calls.exists()


@pytest.mark.parametrize(
    ("output", "explanation"),
    [
        ("403 - You cannot submit until you accept the competition rules", "Log in, accept them at .*rsna.*/rules"),
        ("403 - Forbidden - Permission 'competitions.participate' was denied", "rules are not accepted"),
        ("403 Client Error: Forbidden for url", "Accept the rules .* new token"),
        ("Could not find kaggle.json. Make sure it's located in ~/.kaggle", "Not authenticated"),
        ("401 - Unauthorized", "Create a token"),
        ("400 - This competition only accepts Submissions from Notebooks", "accepts the output of a notebook"),
        ("400 - Late submissions are disabled: competition has ended", "closed"),
        ("404 - Not Found", "Check the name"),
        ("Max retries exceeded: Name resolution failed", "cannot be reached"),
        ("400 - Your team has reached its daily submission limit", "daily limit"),
        ("400 - Submission not allowed: Your team has used its Submission allowance (5 of 5)", "daily limit"),
        ("400 - Submission file exceeds the size limit", "reason is unknown"),
        ("kaggle/api.py, line 1401, in submit: 500 Server Error", "reason is unknown"),
        ("something new", "reason is unknown"),
    ],
)
def test_a_refusal_is_explained(output: str, explanation: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_fake(tmp_path, monkeypatch, f"{output} {TOKEN}", status=0)  # some versions exit with 0 on a refusal
    with pytest.raises(UserError, match=explanation) as fault:
        send(Upload(tmp_path / "good.csv"))
    assert TOKEN not in str(fault.value) and output in str(fault.value)


def test_a_missing_command_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="Install it"):
        send(Upload(tmp_path / "good.csv"))


def test_tokens_are_removed_from_any_text() -> None:
    assert without_tokens('{"username": "me", "key": "secret"}') == '{"username": "me", "key": "***"}'
    assert explain("429 - Too many requests", "x").startswith("The daily limit")
