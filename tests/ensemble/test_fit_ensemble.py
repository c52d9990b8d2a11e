"""The artifact ensemble/fit on a simulated contest: contents, absence of leaks, promotion, application."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated_predictions import Contest, simulate, write_contest, write_network
from ensemble.__main__ import main
from ensemble.apply_ensemble import apply
from ensemble.baselines import Prior
from ensemble.candidates import PRIOR
from ensemble.cross_fitting import complete, cross_fit
from ensemble.decode import decode
from ensemble.ensemble_inputs import read_inputs
from ensemble.fit_ensemble import ensemble_artifact, fit
from ensemble.predictions import oof_view, read_measured, read_networks
from ensemble.promotion import compare_slices, promote
from input.contest import (
    CHRONIC,
    EXAM_LABELS,
    INDETERMINATE,
    LABEL_TITLES,
    NEGATIVE,
    QA_LABELS,
    SLICE_LABEL,
    SOP,
    STUDY,
)
from input.label_rules import count_violations
from input.metric import contest_score
from pipeline import paths
from pipeline.artifact import read_manifest
from pipeline.errors import UserError
from pipeline.settings import EnsembleSettings, InputSettings, ModelsSettings, Settings

#: These tests fit ensembles.
pytestmark = pytest.mark.slow

CANDIDATES = ["prior", "z_only", "alpha", "beta", "mean", "stack"]
SETTINGS = Settings(
    input=InputSettings(folds=3),
    models=ModelsSettings(backbones=("alpha", "beta")),
    ensemble=EnsembleSettings(exam_rounds=60, slice_rounds=60, inner_folds=2, bags=2, bootstrap=200),
)

QUICK = dataclasses.replace(
    SETTINGS,
    ensemble=EnsembleSettings(exam_rounds=10, slice_rounds=10, inner_folds=2, bags=1, bootstrap=50),
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Contest, pd.DataFrame, pd.DataFrame]:
    """One fitted contest for all tests of this module; two slices and one exam have no network rows."""
    contest = simulate(train=120, test=60, seed=11, slices=30)
    lost = contest.test_slices[SOP].iloc[[0, 5]].tolist()
    lost += contest.slices.loc[contest.slices[STUDY] == contest.exams[STUDY].iloc[2], SOP].tolist()
    for folds in contest.networks.values():
        for fold, table in folds.items():
            folds[fold] = table[~table[SOP].isin(lost)]
    root = tmp_path_factory.mktemp("ensemble")
    write_contest(contest, root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PE_ROOT", str(root))
        fit(SETTINGS)
    runs = next((root / "artifacts" / "ensemble").glob("fit-*"))
    return contest, pd.read_parquet(runs / "exams.parquet"), pd.read_parquet(runs / "slices.parquet")


@pytest.fixture
def root(finished, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.getbasetemp() / "ensemble0"
    monkeypatch.setenv("PE_ROOT", str(folder))
    return folder


def rows_of(table: pd.DataFrame, candidate: str, role: str) -> pd.DataFrame:
    return table[(table["candidate"] == candidate) & (table["role"] == role)]


def test_every_candidate_predicts_every_row_of_the_contest(finished):
    contest, exams, slices = finished
    assert exams["candidate"].unique().tolist() == CANDIDATES
    for role, split in (("oof", "train"), ("test", "test")):
        studies = set(contest.exams.loc[contest.exams["split"] == split, STUDY])
        sops = set(contest.slices.loc[contest.slices["split"] == split, SOP])
        for candidate in CANDIDATES:
            assert set(rows_of(exams, candidate, role)[STUDY]) == studies
            assert set(rows_of(slices, candidate, role)[SOP]) == sops


def test_slices_and_exams_without_network_predictions_get_the_prior(finished):
    contest, exams, slices = finished
    prior = rows_of(slices, "prior", "test").set_index(SOP)["label"]
    stack = rows_of(slices, "stack", "test").set_index(SOP)["label"]
    lost = contest.test_slices[SOP].iloc[[0, 5]]
    np.testing.assert_allclose(stack[lost], prior[lost])
    study = contest.exams[STUDY].iloc[2]
    rows = [rows_of(exams, name, "oof").set_index(STUDY).loc[study, NEGATIVE] for name in ("prior", "stack")]
    assert rows[0] == pytest.approx(rows[1])


def test_decoded_predictions_beat_the_priors_on_unseen_exams(finished):
    contest, exams, slices = finished
    scores = {}
    for candidate in CANDIDATES:
        decoded, decoded_slices = decode(rows_of(exams, candidate, "test"), rows_of(slices, candidate, "test"))
        highest = decoded_slices.groupby(STUDY)["label"].max().reindex(decoded[STUDY]).to_numpy()
        assert count_violations(decoded, highest) == 0
        scores[candidate] = contest_score(contest.test_exams, contest.test_slices, decoded, decoded_slices).total
    assert scores["stack"] < 0.85 * scores["prior"] and scores["mean"] < 0.85 * scores["prior"]
    assert scores["z_only"] < scores["prior"]


def test_the_manifest_names_the_promoted_candidate(root):
    metrics = read_manifest(paths.ensemble_run())["metrics"]
    assert metrics["promoted"] in ("mean", "alpha", "beta", "stack")
    assert set(metrics["out_of_fold"]) == set(CANDIDATES) - {"prior"}


def test_a_second_fit_does_nothing(root, capsys):
    fit(SETTINGS)
    assert "up to date" in capsys.readouterr().out


def test_a_network_with_the_same_settings_and_other_predictions_changes_the_identity(tmp_path, monkeypatch):
    contest = simulate(train=12, test=3, seed=1, slices=10)
    write_contest(contest, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    first = ensemble_artifact(SETTINGS)
    assert ensemble_artifact(SETTINGS).identity == first.identity
    shutil.rmtree(paths.model_run("alpha", 0))
    table = contest.networks["alpha"][0]
    write_network(tmp_path, "alpha", 0, table.assign(pe=table["pe"] / 2))
    assert ensemble_artifact(SETTINGS).identity != first.identity


@pytest.mark.parametrize("candidate", ["mean", "stack"])
def test_apply_repeats_the_test_predictions(finished, root, candidate):
    contest, exams, slices = finished
    networks = {
        fold: {
            name: folds[fold].query("role == 'test'").drop(columns="role") for name, folds in contest.networks.items()
        }
        for fold in range(3)
    }
    exams_again, slices_again = apply(networks, contest.test_slices, measured=contest.measured, candidate=candidate)
    expected = rows_of(exams, candidate, "test").set_index(STUDY).loc[exams_again[STUDY], list(EXAM_LABELS)]
    np.testing.assert_allclose(exams_again[list(EXAM_LABELS)], expected, atol=1e-12)
    stored = rows_of(slices, candidate, "test").set_index(SOP)["label"]
    np.testing.assert_allclose(slices_again["label"], stored[slices_again[SOP]], atol=1e-12)


def test_an_exam_in_the_wrong_fold_is_an_error():
    contest = simulate(train=12, test=3, seed=1, slices=10)
    contest.exams.loc[0, "fold"] = (contest.exams.loc[0, "fold"] + 1) % 3
    with pytest.raises(UserError, match="1 out-of-fold exams are not in fold"):
        oof_view(contest.networks, contest.exams, contest.slices, contest.measured)


def test_a_contest_without_readable_test_slices_gets_the_prior(tmp_path, monkeypatch):
    contest = simulate(train=60, test=3, seed=4, slices=20)
    for folds in contest.networks.values():
        for fold, table in folds.items():
            folds[fold] = table[table["role"] == "oof"]
    write_contest(contest, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    fit(QUICK)
    slices = rows_of(pd.read_parquet(paths.ensemble_run() / "slices.parquet"), "stack", "test")
    assert len(slices) == len(contest.test_slices) and slices["label"].nunique() == 1


def test_pe_in_only_one_fold_is_an_error(tmp_path, monkeypatch):
    contest = simulate(train=60, test=3, seed=4, slices=20)
    negative = (contest.exams["fold"] > 0) & (contest.exams["split"] == "train")
    contest.exams.loc[negative, "q"] = 0.0
    write_contest(contest, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    with pytest.raises(UserError, match=r"Too few training exams with PE.* in 1\."):
        fit(SETTINGS)


def test_all_faults_of_network_tables_are_listed_at_once(tmp_path, monkeypatch):
    contest = simulate(train=12, test=3, seed=1, slices=10)
    contest.networks["alpha"][0].iloc[0, 3] = np.nan
    contest.networks["beta"][1].iloc[0, 3] = 1.2
    write_contest(contest, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    with pytest.raises(UserError) as fault:
        read_networks(("alpha", "beta", "gamma"), range(3), "oof")
    text = str(fault.value)
    assert "alpha/fold0/slices.parquet: pe: 1 values" in text
    assert "beta/fold1/slices.parquet: pe: 1 values" in text and "gamma/fold2: not trained yet" in text


def test_a_damaged_table_is_reported_before_it_is_parsed(tmp_path, monkeypatch):
    write_contest(simulate(train=12, test=3, seed=1, slices=10), tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    damaged = paths.model_run("beta", 1) / "slices.parquet", paths.store() / "exams.parquet"
    for file in damaged:
        file.write_bytes(b"no parquet")
    with pytest.raises(UserError, match=r"beta/fold1/slices\.parquet: changed since it was written"):
        read_networks(("alpha", "beta"), range(3), "oof")
    with pytest.raises(UserError, match=r"store/exams\.parquet: changed since it was written"):
        read_measured(paths.store())


def test_the_command_rejects_networks_of_other_settings(tmp_path, monkeypatch):
    write_contest(simulate(train=12, test=3, seed=1, slices=10), tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    words = ["--name", paths.UNNAMED, "--set", 'models.backbones=["alpha", "beta"]']
    monkeypatch.setattr("sys.argv", ["ensemble", "fit", *words])
    with pytest.raises(UserError, match="(?s)Networks are not ready.*models/alpha/fold0"):
        main()


def test_shuffled_labels_leave_nothing_to_find(tmp_path, monkeypatch):
    """A second level that leaks its own fold would score better than chance on labels without meaning."""
    contest = simulate(train=90, test=3, seed=8, slices=20, signal=0.0)
    write_contest(contest, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    fit(SETTINGS)
    exams = rows_of(pd.read_parquet(paths.ensemble_run() / "exams.parquet"), "stack", "oof").set_index(STUDY)
    truth = contest.exams[contest.exams["split"] == "train"].set_index(STUDY)
    score = (1 - exams[NEGATIVE] - exams[INDETERMINATE])[truth.index]
    positive = truth["q"] > 0
    wins = (score[positive].to_numpy()[:, None] > score[~positive].to_numpy()).mean()
    assert 0.3 < wins < 0.68
    assert read_manifest(paths.ensemble_run())["metrics"]["promoted"] in ("prior", "z_only")


def test_a_richer_candidate_needs_more_than_luck():
    generator = np.random.default_rng(0)
    loss = generator.gamma(2, 0.2, 200)
    parts = {
        name: pd.DataFrame(
            {"exam_loss": value, "exam_weight": 1.0, "image_loss": 0.0, "image_weight": 0.0}
            | dict.fromkeys(EXAM_LABELS, 0.0)
        )
        for name, value in (
            ("plain", loss),
            ("lucky", loss + generator.normal(-0.001, 0.1, 200)),
            ("better", loss - 0.05),
        )
    }
    assert promote({name: parts[name] for name in ("plain", "lucky")}, 500, 1)[0] == "plain"
    winner, steps = promote(parts, 500, 1)
    assert winner == "better" and [step.promoted for step in steps] == [False, True]
    assert steps[1].against == "plain" and steps[1].difference == pytest.approx(-0.05)


def test_slice_scores_are_compared_on_the_same_exams():
    generator = np.random.default_rng(0)
    weight, loss = generator.integers(1, 30, 150), generator.gamma(2, 0.1, 150)
    zero = dict.fromkeys(("exam_loss", "exam_weight"), 5.0)
    plain = pd.DataFrame({**zero, "image_loss": loss * weight, "image_weight": weight})
    better = plain.assign(image_loss=(loss - 0.02) * weight)
    comparison = compare_slices({"stack": better, "mean": plain}, "stack", "mean", 300, 1)
    assert comparison.metric == pytest.approx(np.average(loss - 0.02, weights=weight)) and comparison.promoted
    assert (comparison.difference, comparison.low, comparison.high) == pytest.approx((-0.02, -0.02, -0.02))
    first_only = weight * (np.arange(150) == 0)  # most resamples have no slice with weight
    sparse = {
        name: part.assign(image_weight=first_only, image_loss=part["image_loss"] * (first_only > 0))
        for name, part in (("stack", better), ("mean", plain))
    }
    comparison = compare_slices(sparse, "stack", "mean", 300, 1)
    assert (comparison.low, comparison.high) == pytest.approx((-0.02, -0.02))


def test_labels_are_not_features_of_the_stack(tmp_path):
    contest = simulate(train=12, test=3, seed=1, slices=10)
    labels = dict.fromkeys((SLICE_LABEL, "q", "fold", *EXAM_LABELS, *QA_LABELS), 1.0)
    contest.measured.slices.assign(**labels).to_parquet(tmp_path / "slices.parquet")
    contest.measured.exams.assign(**labels).to_parquet(tmp_path / "exams.parquet")
    view = oof_view(contest.networks, contest.exams, contest.slices, read_measured(tmp_path))
    assert len(view.slice_numbers.columns) and len(view.exam_numbers.columns)
    assert not set(labels) & (set(view.slice_numbers) | set(view.exam_numbers))


def test_a_nan_prediction_is_an_error_and_not_a_missing_exam():
    contest = simulate(train=12, test=3, seed=1, slices=10)
    view = oof_view(contest.networks, contest.exams, contest.slices, contest.measured)
    prior = Prior.fit(view, EnsembleSettings())
    prediction = prior.predict(view)
    prediction.target_probabilities["pe"][2] = np.nan
    with pytest.raises(UserError, match=f"1 exams are NaN, e.g. {view.studies[2]}"):
        complete(prediction, view.studies, view.sops, contest.exams, contest.slices, prior)


def test_networks_with_different_slices_are_an_error():
    contest = simulate(train=12, test=3, seed=1, slices=10)
    contest.networks["beta"][2] = contest.networks["beta"][2].iloc[1:]
    with pytest.raises(UserError, match="beta and alpha predict different slices"):
        oof_view(contest.networks, contest.exams, contest.slices, contest.measured)


def test_exams_without_measured_numbers_are_predicted(finished, root):
    """A folder of DICOM files may have no measured numbers: they count as missing."""
    contest, _, _ = finished
    networks = {
        fold: {
            name: folds[fold].query("role == 'test'").drop(columns="role") for name, folds in contest.networks.items()
        }
        for fold in range(3)
    }
    exams, _ = apply(networks, contest.test_slices, candidate="stack")
    assert len(exams) == 60 and np.isfinite(exams[list(EXAM_LABELS)].to_numpy()).all()


class Recorder:
    """A candidate that records the exams it is fitted on and the exams it predicts."""

    def __init__(self) -> None:
        self.learned: list[set[str]] = []
        self.predicted: list[tuple[int, set[str]]] = []

    def fit(self, view, settings):
        self.learned.append(set(view.studies))
        return RecordingPrior(Prior.fit(view, settings), self, len(self.learned) - 1)


class RecordingPrior:
    """The prior, which records the exams it predicts and the number of its fit."""

    def __init__(self, prior: Prior, recorder: Recorder, number: int) -> None:
        self.prior, self.recorder, self.number = prior, recorder, number

    def predict(self, view):
        self.recorder.predicted.append((self.number, set(view.studies)))
        return self.prior.predict(view)

    def save(self, folder):
        return {}


def test_no_exam_is_predicted_by_a_model_that_learned_from_it(tmp_path, monkeypatch):
    contest = simulate(train=30, test=6, seed=3, slices=10)
    write_contest(contest, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    recorder = Recorder()
    names = {PRIOR: Prior.fit, "recorded": recorder.fit}
    monkeypatch.setattr("ensemble.cross_fitting.fitters", lambda settings: names)
    monkeypatch.setattr("ensemble.cross_fitting.networks_read", lambda settings: {})
    tables, _ = cross_fit(read_inputs(SETTINGS), SETTINGS, tmp_path / "trees")
    train = contest.exams[contest.exams["split"] == "train"]
    held_out = [(number, studies) for number, studies in recorder.predicted if number < 3]
    assert len(held_out) == 3
    for number, studies in held_out:
        assert not studies & recorder.learned[number]
        assert studies | recorder.learned[number] == set(train[STUDY])
        assert train.set_index(STUDY).loc[list(studies), "fold"].nunique() == 1
    assert recorder.learned[3] == set(train[STUDY])
    tested = [studies for number, studies in recorder.predicted if number == 3]
    assert len(tested) == 3 and not set.union(*tested) & set(train[STUDY])
    assert set(tables["recorded", "oof"][0][STUDY]) == set(train[STUDY])


def test_labels_of_the_test_exams_are_not_read(tmp_path, monkeypatch):
    contest = simulate(train=30, test=6, seed=3, slices=10)
    write_contest(contest, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    inputs = read_inputs(SETTINGS)
    assert inputs.test_view(0).truth is None and inputs.test_view(0).slice_truth is None
    assert not set(inputs.test_view(0).studies) & set(inputs.out_of_fold.studies)


def test_labels_that_occur_in_one_fold_only_get_the_prior_and_are_logged(tmp_path, monkeypatch, capsys):
    """Warnings are errors in tests, so a warning of LightGBM or NumPy would fail this test."""
    contest = simulate(train=42, test=3, seed=4, slices=8, backbones=("alpha",))
    for label in (CHRONIC, INDETERMINATE):
        eligible = (contest.exams["q"] > 0) == (label == CHRONIC)
        rare = contest.exams.index[eligible & (contest.exams["fold"] == 0)][:3]
        contest.exams[label] = 0.0
        contest.exams.loc[rare, label] = 1.0
        contest.exams.loc[rare, NEGATIVE] = 0.0
    write_contest(contest, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    settings = dataclasses.replace(QUICK, models=ModelsSettings(backbones=("alpha",)))
    tables, _ = cross_fit(read_inputs(settings), settings, tmp_path / "trees")
    fold0 = capsys.readouterr().out.split("fold1: fitting")[0]
    studies = contest.exams.loc[contest.exams["fold"] == 0, STUDY]
    for label in (CHRONIC, INDETERMINATE):
        for name in ("alpha", "mean", "stack"):
            assert f"{name}: {LABEL_TITLES[label]}: 0 positive of" in fold0
        for name in ("mean", "stack"):
            probabilities = tables[name, "oof"][0].set_index(STUDY).loc[studies, label]
            assert (probabilities > 0).all() and probabilities.max() < 0.06
            assert np.isfinite(tables[name, "test"][0][list(EXAM_LABELS)].to_numpy()).all()
