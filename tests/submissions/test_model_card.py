"""The model card: every figure comes from the files of the run."""

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from input.contest import EXAM_LABELS, LABEL_TITLES, NEGATIVE
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import InputSettings, Settings, SubmissionsSettings
from submissions.finished_run import read_candidates
from submissions.leaderboard import leaderboard_path, read_leaderboard
from submissions.model_card import card_command, card_facts, write_card
from submissions.model_card_page import page
from submissions.write_submission import write_all
from tests.support.submission_cases import random_labels, write_ensemble, write_tree


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """A small contest with finished submissions."""
    tmp_path = tmp_path_factory.mktemp("card")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PE_ROOT", str(tmp_path / "products"))
        yield write_run(tmp_path)


def write_run(tmp_path: Path) -> Settings:
    """Write the submissions of two candidates, and the manifest of one network."""
    train, test = random_labels(30, seed=1), random_labels(24, seed=2, first=100)
    write_tree(tmp_path / "contest", train, test)
    write_ensemble(tmp_path / "products", train, test, {"prior": 0.0, "stack": 2.0})
    run = paths.model_run("mobilenetv2", 0)
    run.mkdir(parents=True)
    facts = {"metrics": {"oof_slice_auc": 0.8765, "final_loss": 0.4321}, "wall_seconds": 338.5, "seed": 17}
    libraries = {"libraries": {"madeup": "1.2.3"}, "python": "3.11.7", "machine": "Linux"}
    (run / "manifest.json").write_text(json.dumps({"files": {"network.xml": ""}, **facts, **libraries}))
    settings = Settings(
        input=InputSettings(data=str(tmp_path / "contest")), submissions=SubmissionsSettings(bootstrap=20)
    )
    write_all(settings)
    return settings


def test_the_facts_are_those_of_the_leaderboard_the_tables_and_the_manifests(settings: Settings) -> None:
    facts = json.loads((paths.submissions() / "model_card.json").read_text())
    row = read_leaderboard(leaderboard_path()).set_index("candidate").loc["stack"]
    assert facts["promoted"] == "stack" and list(facts["scores"]) == ["prior", "stack"]
    scores = facts["scores"]["stack"]
    assert scores["out_of_fold"]["metric"] == {"value": row["cv"], "low": row["cv_low"], "high": row["cv_high"]}
    for part, short in (("out_of_fold", "cv"), ("test_truth", "test")):
        for name, column in (("exam_part", "exam"), ("image_part", "image"), ("exam_auc", "exam_auc")):
            low, high = row[f"{short}_{column}_low"], row[f"{short}_{column}_high"]
            assert scores[part][name] == {"value": row[f"{short}_{column}"], "low": low, "high": high}
    assert facts["data"]["training_exams"] == 30 and facts["data"]["training_exams_with_pe"] == 10
    assert facts["data"]["training_slices_with_pe"] == 20 and sum(facts["folds"]["exams"]) == 30
    assert set(facts["data"]["training_exams_by_label"]) == set(EXAM_LABELS)
    assert facts["networks"][0]["metrics"]["oof_slice_auc"] == 0.8765 and facts["networks"][0]["engine"] == "openvino"
    assert facts["seconds"]["models"] == 338.5 and facts["environment"]["libraries"]["madeup"] == ["1.2.3"]
    assert facts["environment"]["hardware"]["cores"] >= 1
    assert facts["synthetic"] is False and "not for diagnosis" in facts["research_use_only"].lower()
    assert facts["settings"]["submissions"]["bootstrap"] == 20 and facts["settings"]["input"]["data"] == ""
    assert {weights["licence"] for weights in facts["weights"]} == {"Apache-2.0", "MIT"}


def test_every_figure_of_the_page_is_in_the_facts(settings: Settings) -> None:
    text = (paths.submissions() / "model_card.md").read_text()
    known = set()

    def collect(value: object) -> None:
        if isinstance(value, dict | list):
            for inner in value.values() if isinstance(value, dict) else value:
                collect(inner)
        elif isinstance(value, float):
            known.update({f"{value:.4f}", f"{value:g}", str(value), json.dumps(value)})

    facts = card_facts(settings)
    collect(facts)
    text_of_facts = json.dumps(facts)
    figures = re.findall(r"\d+\.\d+", text)
    assert len(figures) > 30
    assert [figure for figure in figures if figure not in known and figure not in text_of_facts] == []


def test_the_head_is_machine_readable_and_a_synthetic_contest_has_a_notice(settings: Settings) -> None:
    facts = card_facts(settings) | {"synthetic": True, "notice": "Synthetic data: generated."}
    text = page(facts)
    head = dict(line.split(": ", 1) for line in text.split("---")[1].strip().splitlines())
    assert json.loads(head["synthetic"]) is True and json.loads(head["license"]) == "mit"
    assert json.loads(head["metric"])["out_of_fold"] == facts["scores"]["stack"]["out_of_fold"]["metric"]
    assert "**Synthetic data: generated.**" in text and f"| {LABEL_TITLES[NEGATIVE]} | {NEGATIVE} |" in text


def test_writing_it_again_gives_the_same_bytes(settings: Settings) -> None:
    before = (paths.submissions() / "model_card.md").read_bytes()
    assert write_card(settings).read_bytes() == before


def test_the_card_has_the_settings_of_the_run_and_not_of_the_command(settings: Settings) -> None:
    other = dataclasses.replace(settings, input=InputSettings(data=settings.input.data, fold_seed=99))
    facts = card_facts(other)
    assert facts["settings"]["input"]["fold_seed"] == facts["folds"]["seed"] == settings.input.fold_seed


def test_submissions_of_another_ensemble_are_an_error_with_the_next_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("submissions.model_card.require_finished", lambda settings: None)
    card_command(settings)
    assert "model card: " in capsys.readouterr().out
    another = dataclasses.replace(read_candidates(paths.ensemble_run()), identity="another")
    monkeypatch.setattr("submissions.model_card.read_candidates", lambda directory: another)
    with pytest.raises(UserError, match=r"its input ensemble changed\. .*--from submissions"):
        card_command(settings)


def test_without_a_row_of_the_run_the_error_has_the_next_command(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("submissions.leaderboard.leaderboard_path", lambda: tmp_path / "none.csv")
    with pytest.raises(UserError, match="from submissions --force"):
        card_facts(settings)
