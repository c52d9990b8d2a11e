"""The evidence report without a browser: images, feature contributions, calibration notes, escaping, the file."""

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated_predictions import simulate
from ensemble.binary_targets import PE
from ensemble.blend import Blend
from ensemble.logistic import logit
from ensemble.predictions import oof_view
from ensemble.stack import Stack
from features.acceptance_rules import Reason, accept
from features.store import open_exam
from features.windows import WINDOWS, apply_window
from inference.evidence import evidence_report as report_module
from inference.evidence.evidence_report import write_evidence, write_report, write_run_report
from inference.evidence.exam_cases import OUT_OF_FOLD
from inference.evidence.exam_page import Context, describe_suspicious_slices, exam_page
from inference.evidence.feature_contributions import contributions
from inference.evidence.model_facts import describe_model
from inference.evidence.reliability import NEIGHBOURS, Reliability, reliability
from inference.evidence.run_cases import cases_of_run, select_exams
from inference.evidence.slice_images import CONTOUR, draw_clot_map, draw_slices, encode_hu, key_planes, window_tables
from input.contest import CENTRAL, EXAM_LABELS, NEGATIVE, STUDY
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import write_text
from pipeline.settings import EnsembleSettings, EvidenceSettings, InferenceSettings, InputSettings
from submissions.finished_run import known_test_truth
from submissions.operating_points import cross_fitted
from submissions.write_submission import write_all
from tests.support.evidence_cases import HOSTILE, PLANES, exam_case, two_cases, with_clot, write_planes, write_run
from tests.support.submission_cases import random_labels


@pytest.mark.parametrize(("window", "tolerance"), [("pe", 0.012), ("mediastinal", 0.006), ("lung", 0.01)])
def test_a_window_of_the_codes_is_the_window_of_the_hu(window: str, tolerance: float) -> None:
    hu = np.arange(-1400, 1101)
    greys = np.array(window_tables()[window])[encode_hu(hu)]
    assert np.abs(greys - apply_window(hu, *WINDOWS[window])).max() < tolerance


def decoded(text: str) -> np.ndarray:
    """The image in base64 text."""
    return cv2.imdecode(np.frombuffer(base64.b64decode(text), np.uint8), cv2.IMREAD_UNCHANGED)


def test_every_slice_has_full_size_within_the_budget(tmp_path: Path) -> None:
    write_planes(tmp_path, "exam")
    exam = open_exam(tmp_path, "exam")
    drawn = draw_slices(exam, [3], characters=1e6)
    assert drawn.planes == list(range(PLANES)) and drawn.shape == (40, 60)
    assert {decoded(image).shape for image in drawn.images} == {(40, 60)}
    assert np.abs(decoded(drawn.images[3]).astype(int) - encode_hu(exam.hu[3])).mean() < 4


def test_above_the_budget_only_key_slices_keep_full_size_and_the_others_become_smaller_and_fewer(
    tmp_path: Path,
) -> None:
    write_planes(tmp_path, "exam", planes=16, shape=(320, 400))
    exam = open_exam(tmp_path, "exam")
    whole = sum(map(len, draw_slices(exam, [5], characters=1e8).images))
    drawn = draw_slices(exam, [5], characters=whole / 4)
    assert sum(map(len, drawn.images)) < 0.3 * whole and 5 in drawn.planes and 0 in drawn.planes
    assert len(drawn.planes) < 16
    shapes = {plane: decoded(image).shape for plane, image in zip(drawn.planes, drawn.images, strict=True)}
    assert shapes.pop(5) == (320, 400) and set(shapes.values()) == {(205, 256)}


def test_a_clot_map_is_transparent_outside_its_contour() -> None:
    probability = np.zeros((20, 30), np.float32)
    probability[5:10, 10:20] = CONTOUR + 0.1
    alpha = decoded(draw_clot_map(probability))[..., 3]
    assert alpha[5, 10] == alpha[9, 19] == 255  # the contour
    assert 0 < alpha[7, 15] < 128  # shaded inside
    assert not alpha[:4].any() and not alpha[:, 21:].any()


def test_key_planes_are_the_likeliest_at_a_minimum_distance() -> None:
    probability = np.array([0.1, 0.8, 0.9, 0.85, 0.2, np.nan, 0.7])
    assert key_planes(probability, np.arange(7) * 5.0, count=3, min_distance_mm=12.0) == [2, 6]
    assert key_planes(probability, np.arange(7) * 5.0, count=3, min_distance_mm=1.0) == [1, 2, 3]


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", [Stack, Blend])
def test_base_and_contributions_add_up_to_the_second_level_logit(kind: type) -> None:
    contest = simulate(train=40, test=2, folds=2, backbones=("a",), slices=8)
    view = oof_view(contest.networks, contest.exams, contest.slices, contest.measured)
    fitted = kind.fit(view, EnsembleSettings(exam_rounds=20, slice_rounds=10, exam_min_data=4, inner_folds=2, bags=2))
    few = view.take(np.arange(6))
    explained = contributions(fitted, [few, few])
    answers = logit(fitted.predict(few).target_probabilities[PE])
    assert list(explained) == list(few.studies)
    np.testing.assert_allclose([exam.logit for exam in explained.values()], answers, atol=1e-4)
    first = explained[few.studies[0]]
    strongest = first.strongest(3)
    assert abs(strongest[0][1]) == first.parts.abs().max() > 0
    assert first.base + sum(part for _, part, _ in strongest) + first.remainder(3) == pytest.approx(first.logit)
    # A series may lack numbers that the training exams had, for example a derivative without spacing.
    bare = dataclasses.replace(few, exam_numbers=few.exam_numbers[[]], slice_numbers=few.slice_numbers[[]], cache={})
    assert any(name.startswith("measured.") for name in first.parts.index) == (kind is Stack)
    logits = [exam.logit for exam in contributions(fitted, [bare]).values()]
    np.testing.assert_allclose(logits, logit(fitted.predict(bare).target_probabilities[PE]), atol=1e-4)


def test_similar_exams_are_the_nearest_in_probability() -> None:
    exams = 200
    truth = pd.DataFrame({STUDY: [f"e{number}" for number in range(exams)]}).assign(**dict.fromkeys(EXAM_LABELS, 0))
    truth[CENTRAL] = (np.arange(exams) >= 150).astype(int)
    predicted = truth[[STUDY]].assign(**dict.fromkeys(EXAM_LABELS, 0.2))
    predicted[CENTRAL] = np.linspace(0, 1, exams)
    calibrated = reliability(truth, predicted.sample(frac=1, random_state=0), seed=0)
    top = calibrated.similar(CENTRAL, 0.999)
    assert (
        (top.exams, top.positive) == (NEIGHBOURS, NEIGHBOURS)
        and top.high == 1.0
        and top.low == pytest.approx(176 / 199)
    )
    # The exam shown is the likeliest one, e199: its neighbours are the 24 below it.
    itself = calibrated.similar(CENTRAL, 1.0, "e199")
    assert itself.exams == NEIGHBOURS and itself.high == pytest.approx(198 / 199)
    assert itself.low == pytest.approx(175 / 199)
    low = calibrated.similar(CENTRAL, 0.3)
    assert low.positive == 0 and low.low < 0.3 < low.high and low.share.high < 0.2


def test_suspicious_slices_are_described_as_ranges_from_the_feet() -> None:
    text = describe_suspicious_slices(np.array([0.1, 0.6, 0.7, 0.2, 0.9]), np.array([-10.0, -5.0, 0.0, 5.0, 10.0]))
    assert text == (
        "3 of 5 slices have a probability of PE above 0.5 (counted from the feet): "
        "slices 2 to 3 (z -5 to 0 mm); slice 5 (z 10 mm)."
    )
    none = describe_suspicious_slices(np.array([0.1, np.nan]), np.zeros(2))
    assert none == "No slice has a probability of PE above 0.5."
    without_z = describe_suspicious_slices(np.array([0.9, 0.9]), np.full(2, np.nan))
    assert without_z.endswith(": slices 1 to 2.")
    many = describe_suspicious_slices(np.tile([0.9, 0.1], 8), np.full(16, np.nan))
    assert many.endswith("; slice 11; and 2 more ranges.")


def test_the_riskiest_exams_and_a_sample_of_the_others_are_selected() -> None:
    exams = pd.DataFrame({STUDY: list("abcdefgh")}).assign(**dict.fromkeys(EXAM_LABELS, 0.0))
    exams[NEGATIVE] = np.linspace(0.1, 0.8, 8)
    chosen = select_exams(exams, EvidenceSettings(riskiest=3, random=2, seed=1))
    assert chosen[:3] == ["a", "b", "c"] and len(set(chosen)) == 5
    assert chosen == select_exams(exams, EvidenceSettings(riskiest=3, random=2, seed=1))
    assert len(select_exams(exams, EvidenceSettings(riskiest=30, random=2))) == 8


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The HTML of a report with a hostile study name."""
    folder = tmp_path_factory.mktemp("evidence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PE_ROOT", str(folder / "root"))
        settings, candidates = write_run(folder)
        for name in ("study0", "study1"):
            write_planes(folder / "store", name)
        path = folder / "evidence.html"
        report = write_report(path, folder / "store", two_cases(), describe_model(settings, candidates), settings)
    assert len(report.studies) == 2 and report.megabytes == pytest.approx(path.stat().st_size / 1e6)
    return path.read_text()


def test_all_text_is_escaped_and_the_policy_allows_only_the_inline_style_and_script(page: str) -> None:
    assert HOSTILE not in page and "<img src=x" not in page and page.count("&lt;img src=x") >= 4
    assert "<li>M\\udcfcller.dcm</li>" in page
    scripts = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    styles = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    assert len(scripts) == len(styles) == 1
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1].replace("&#39;", "'")
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy
    for text in (*scripts, *styles):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    assert not re.search(r"""(src|href|action)=["']?(https?:|//)|@import|url\((?!#)|\sstyle=""", page)


def test_a_series_without_spacing_has_no_z(tmp_path: Path) -> None:
    write_planes(tmp_path, "study1", pixel_mm=np.nan)
    values = {label: np.array([0.2, 0.4]) for label in EXAM_LABELS}
    known = Reliability(np.array(["a", "b"]), values, values, {}, {})
    context = Context(tmp_path, known, pd.DataFrame(), characters_per_exam=1e6, mapped_slices=0)
    shown = exam_page(1, two_cases()[1], context)
    assert set(shown.data["z"]) == {None} and "mm" not in shown.summary


def test_the_data_of_an_exam_is_json_with_lines_and_images(page: str) -> None:
    first, second = (
        json.loads(text) for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page)
    )
    assert len(first["images"]) == PLANES and first["start"] == 7 and 7 in first["keys"]
    assert first["lines"] == [
        {"part": "rv", "name": "right ventricle 41 mm", "plane": 4, "points": [10.0, 12.0, 20.0, 30.0]}
    ]
    assert second["lines"] == [] and second["z"][:2] == [0.0, 5.0]
    assert "left ventricle" not in page.split('id="exam-2"')[0].split('id="exam-1"')[1]


def test_the_likeliest_slices_and_the_key_slices_of_findings_show_the_clot_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    settings, candidates = write_run(tmp_path)
    settings = dataclasses.replace(settings, inference=InferenceSettings(evidence=EvidenceSettings(mapped_slices=1)))
    write_planes(tmp_path / "store", "study1")
    case = with_clot(exam_case("study1", "1.2.3", 0.9), plane=1)
    case = dataclasses.replace(case, clot=dataclasses.replace(case.clot, vessel_ml=(5.0, 5.0)))
    write_report(tmp_path / "e.html", tmp_path / "store", [case], describe_model(settings, candidates), settings)
    text = (tmp_path / "e.html").read_text()
    assert "<p>Clot burden: 0.3 ml; left 0.3 ml (0 % of the arteries in the lung), right 0.0 ml (0 %)</p>" in text
    data = json.loads(re.search(r'<script type="application/json"[^>]*>(.*?)</script>', text)[1])
    assert list(data["overlays"]) == ["1", "7"] and {1, 7} <= set(data["keys"])
    assert decoded(data["overlays"]["1"])[..., 3].any() and not decoded(data["overlays"]["7"])[..., 3].any()


@pytest.mark.parametrize("force", [False, True])
def test_a_banner_says_why_an_exam_is_not_assessable_and_its_labels_are_greyed_unless_forced(
    force: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    settings, candidates = write_run(tmp_path)
    for name in ("study0", "study1"):
        write_planes(tmp_path / "store", name)
    refused = accept((Reason("lungs", "no lungs found", True),))
    cases = [
        exam_case("study0", "1.2.3", 0.9, acceptance=refused, force_labels=force),
        exam_case("study1", "1.2.4", 0.2, acceptance=accept((Reason("noise", "strong noise"),))),
    ]
    write_report(tmp_path / "e.html", tmp_path / "store", cases, describe_model(settings, candidates), settings)
    text = (tmp_path / "e.html").read_text()
    banners = re.findall(r'<p class="banner([^"]*)" role="note"><strong>(.*?)</strong> (.*?)</p>', text)
    greyed = "" if force else " The labels below are greyed out: do not use them."
    assert banners == [
        (" refused", "Not assessable:", f"no lungs found.{greyed}"), ("", "Caution:", "strong noise.")
    ]  # fmt: skip
    assert (text.count('class="page exam withheld"'), text.count('class="withheld"')) == (int(not force),) * 2
    assert (
        '<span class="chip alert">not assessable</span>' in text and '<span class="chip alert">caution</span>' in text
    )


def test_a_run_reports_exams_of_either_role_and_rejects_unknown_exams(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    settings, candidates = write_run(tmp_path)
    train, test = f"{3:012x}", f"{102:012x}"
    cases = {case.name: case for case in cases_of_run(settings, candidates, [train, test])}
    assert cases[train].role == OUT_OF_FOLD and cases[train].folds == (0,) and cases[test].folds == (0, 1, 2)
    assert cases[test].slices["z_mm"].tolist() == [0.0, 5.0, 10.0, 15.0, 20.0, 25.0]
    assert cases[train].truth["leftsided_pe"] == 1 and cases[train].slices["truth"].sum() == 2
    with pytest.raises(UserError, match="exams not in this run: nobody"):
        cases_of_run(settings, candidates, [test, "nobody"])
    report = write_evidence(settings, candidates, tmp_path / "run.html")
    assert len(report.studies) == 24  # all of them: fewer than the selection allows
    text = (tmp_path / "run.html").read_text()
    assert text.count("no pixels stored") >= 24 and "evidence report" in text.lower()


def test_the_model_page_shows_the_numbers_of_the_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    settings, candidates = write_run(tmp_path)
    model = describe_model(settings, candidates)
    oof = model.scores["out of fold"]
    assert model.name == "stack" and sum(row["exams"] for row in model.folds) == oof.exams == 60
    total = sum(row["metric"] * oof.weight[folds_of(row["fold"])].sum() for row in model.folds) / oof.weight.sum()
    assert total == pytest.approx(oof.total.value)
    point = model.operating_points["out of fold"]
    assert point.true_positives + point.false_negatives == oof.positive_exams
    rates = cross_fitted(oof.pe_scores, oof.positive, np.select([folds_of(1), folds_of(2)], [1, 2]))
    assert point.specificity == rates.specificity and point.npv == rates.npv
    assert point.specificity.value == point.true_negatives / (point.true_negatives + point.false_positives)
    assert len(model.quarantined) == 1


def test_submissions_of_another_ensemble_are_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    settings, candidates = write_run(tmp_path)
    write_all(settings)
    model = describe_model(settings, candidates)
    assert list(model.scores) == ["out of fold", "test"] and len(model.leaderboard) == 3
    assert model.artifacts[-1]["name"] == "submissions/write"
    other = describe_model(settings, dataclasses.replace(candidates, identity="another"))
    assert list(other.scores) == ["out of fold"] and other.leaderboard.empty
    assert "submissions/write" not in [manifest["name"] for manifest in other.artifacts]
    with (paths.submissions() / "submission.csv").open("a") as file:
        file.write("x")
    with pytest.raises(UserError, match="sha256 differs"):
        describe_model(settings, candidates)


def test_the_truth_of_another_contest_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    settings, candidates = write_run(tmp_path)
    without_data = dataclasses.replace(settings, input=InputSettings())
    truth = without_data.data_root / "truth" / "test_truth.csv"
    truth.parent.mkdir(parents=True)
    random_labels(24, seed=2, first=100).to_csv(truth, index=False)
    assert len(known_test_truth(without_data).exams) == 24
    random_labels(24, seed=2, first=500).to_csv(truth, index=False)
    write_text(paths.submissions() / "submission.csv", "id,label\n")
    assert known_test_truth(without_data) is None
    assert list(describe_model(without_data, candidates).scores) == ["out of fold"]


def folds_of(fold: int) -> np.ndarray:
    """Rows of the prepared training exams of one fold."""
    table = pd.read_parquet(paths.prepared() / "exams.parquet").query("split == 'train'")
    return (table["fold"] == fold).to_numpy()


@pytest.mark.slow
def test_the_run_report_is_written_once_and_again_when_its_inputs_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    monkeypatch.setattr(report_module, "require_finished", lambda settings: None)
    store = {"identity": "a store"}
    manifests = {"store": store, "novelty": {"identity": "novelty"}}
    monkeypatch.setattr(report_module, "read_manifest", lambda folder: manifests[folder.name])
    settings, _ = write_run(tmp_path)
    with pytest.raises(UserError, match="needs finished submissions"):
        write_run_report(settings)
    write_all(settings)
    write_run_report(settings)
    html = paths.inference() / "evidence" / "evidence.html"
    assert "24 exams" in capsys.readouterr().out and html.is_file()
    write_run_report(settings)
    assert "up to date" in capsys.readouterr().out
    one_exam = InferenceSettings(evidence=EvidenceSettings(riskiest=1, random=0))
    settings = dataclasses.replace(settings, inference=one_exam)
    write_run_report(settings)
    assert "(1 exam," in capsys.readouterr().out
    store["identity"] = "another store"
    write_run_report(settings)
    assert "its input store changed" in capsys.readouterr().out
