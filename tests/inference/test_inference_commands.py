"""Commands of the inference stage call the right function with the parsed arguments."""

import sys
from pathlib import Path

import pytest

from inference.__main__ import main

TARGETS = {
    "report": "inference.evidence.evidence_report.write_run_report",
    "predict": "inference.predict_series.predict_folder",
    "predict-contest": "inference.predict_contest.predict_contest",
    "evidence": "inference.evidence.evidence_report.write_exam_report",
    "export-dicom": "inference.pacs.export_dicom.export_dicom",
}


@pytest.mark.parametrize(
    ("words", "arguments", "options"),
    [
        (["report", "--force"], [], {"force": True}),
        (
            ["predict", "scans"],
            [Path("scans"), Path("predicted_slices.csv"), Path("predicted_evidence.html")],
            {"force_labels": False},
        ),
        (
            ["predict", "scans", "--out", "s.csv", "--no-evidence"],
            [Path("scans"), Path("s.csv"), None],
            {"force_labels": False},
        ),
        (
            ["predict-contest", "tree", "--out", "s.csv", "--hours", "2"],
            [Path("tree"), Path("s.csv")],
            {"hours": 2.0, "force": False},
        ),
        (["evidence", "--exams", "1.2", "1.3"], [["1.2", "1.3"], Path("evidence.html")], {}),
        (
            ["export-dicom", "--series", "scans", "--out", "pacs"],
            [Path("scans"), Path("pacs")],
            {"segmentation": False, "force_labels": False},
        ),
        (
            ["export-dicom", "--series", "scans", "--out", "pacs", "--seg"],
            [Path("scans"), Path("pacs")],
            {"segmentation": True, "force_labels": False},
        ),
    ],
    ids=lambda value: value[0] if isinstance(value, list) and value and isinstance(value[0], str) else "",
)
def test_a_verb_calls_its_function(
    monkeypatch: pytest.MonkeyPatch, words: list[str], arguments: list[object], options: dict[str, object]
) -> None:
    calls = []
    monkeypatch.setattr(TARGETS[words[0]], lambda *args, **kwargs: calls.append((args, kwargs)))
    monkeypatch.setattr(sys, "argv", ["inference", *words, "--set", "models.epochs=6"])
    assert main() == 0
    ((settings, *received), received_options) = calls[0]
    assert settings.models.epochs == 6
    assert received == arguments and received_options == options


def test_predict_contest_needs_the_path_of_the_submission(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["inference", "predict-contest", "tree"])
    with pytest.raises(SystemExit):
        main()
    assert "--out" in capsys.readouterr().err
