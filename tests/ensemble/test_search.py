"""Search of settings: honest exams, bounds, resumption, the chosen file, and training settings."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks.simulated_predictions import Contest, simulate, write_contest
from ensemble import search as search_module
from ensemble import search_networks
from ensemble.__main__ import main
from ensemble.ensemble_inputs import Inputs, read_inputs
from ensemble.predictions import oof_view
from ensemble.search import RESULT, paired_gain, search
from ensemble.search_exams import is_held_out, require_enough, search_exams, stack_contributions
from ensemble.search_networks import train_trial
from ensemble.search_space import ensemble_ranges, network_ranges, value_of, with_values
from ensemble.search_study import TrialFailed, run_trials
from input.contest import EXAM_LABELS, SLICE_LABEL, STUDY
from input.metric import score_of
from pipeline import paths
from pipeline.errors import UserError
from pipeline.experiments import recorded_settings
from pipeline.file_lock import locked
from pipeline.identity import differences
from pipeline.load_settings import load_settings
from pipeline.settings import EnsembleSettings, ExamNetworkSettings, InputSettings, ModelsSettings, Settings

QUICK = EnsembleSettings(exam_rounds=10, slice_rounds=10, inner_folds=2, bags=1, bootstrap=100)
SETTINGS = Settings(
    input=InputSettings(folds=2), models=ModelsSettings(backbones=("alpha",)), ensemble=QUICK
)  # fmt: skip
RANGES = ensemble_ranges(SETTINGS)


@pytest.fixture
def contest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Contest:
    """A contest with the predictions of one network; its artifacts count as finished."""
    simulated = simulate(train=48, test=3, seed=5, folds=2, slices=8, backbones=("alpha",))
    write_contest(simulated, tmp_path)
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    for name in ("connect_networks", "require_networks"):
        monkeypatch.setattr(search_module, name, lambda settings: None)
    return simulated


def training_exams(contest: Contest) -> pd.DataFrame:
    return contest.exams[contest.exams["split"] == "train"]


def inputs_of(
    networks: dict[str, dict[int, pd.DataFrame]], exams: pd.DataFrame, slices: pd.DataFrame, contest: Contest
) -> Inputs:
    """Inputs whose test exams must not be read."""
    return Inputs(oof_view(networks, exams, slices, contest.measured), None, exams, slices)


def files_below(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


# ---------------------------------------------------------------- exams


def test_a_third_of_each_fold_with_and_without_pe_is_held_out() -> None:
    exams = training_exams(simulate(train=240, test=3, seed=1, slices=5))
    held_out = is_held_out(exams, {})
    shares = exams.assign(held_out=held_out, pe=exams["q"] > 0).groupby(["fold", "pe"])["held_out"].mean()
    assert len(shares) == 6 and shares.between(0.3, 0.34).all()
    shuffled = exams.sample(frac=1, random_state=3)
    assert set(shuffled.loc[is_held_out(shuffled, {}), STUDY]) == set(exams.loc[held_out, STUDY])


def test_exams_of_a_group_are_on_the_same_side() -> None:
    exams = training_exams(simulate(train=120, test=3, seed=1, slices=5, folds=2)).reset_index(drop=True)
    groups = {study: f"patient{row // 4}" for row, study in enumerate(exams[STUDY])}
    exams["fold"] = np.arange(len(exams)) // 4 % 2
    held_out = pd.Series(is_held_out(exams, groups)).groupby(exams[STUDY].map(groups))
    assert held_out.nunique().eq(1).all() and 0.2 < held_out.first().mean() < 0.4


def test_labels_of_held_out_exams_do_not_change_the_metric_of_a_trial(contest: Contest) -> None:
    exams = training_exams(contest)
    held_out = set(exams.loc[is_held_out(exams, {}), STUDY])
    choosing = set(exams[STUDY]) - held_out
    metrics = []
    for is_changed in (False, True):
        changed_exams, changed_slices = contest.exams.copy(), contest.slices.copy()
        if is_changed:
            rows = changed_exams[STUDY].isin(held_out)
            changed_exams.loc[rows, list(EXAM_LABELS)] = 1 - changed_exams.loc[rows, list(EXAM_LABELS)]
            rows = changed_slices[STUDY].isin(held_out)
            changed_slices.loc[rows, SLICE_LABEL] = 1 - changed_slices.loc[rows, SLICE_LABEL]
        part = search_exams(inputs_of(contest.networks, changed_exams, changed_slices, contest), SETTINGS, choosing)
        assert set(part.view.studies) == choosing
        metrics.append(score_of(stack_contributions(part, SETTINGS)).total)
    assert metrics[0] == metrics[1]


def test_every_exam_is_scored_even_without_a_network_prediction(contest: Contest) -> None:
    lost = training_exams(contest)[STUDY].iloc[0]
    networks = {"alpha": {fold: table[table[STUDY] != lost] for fold, table in contest.networks["alpha"].items()}}
    inputs = inputs_of(networks, contest.exams, contest.slices, contest)
    everyone = set(training_exams(contest)[STUDY])
    parts = stack_contributions(search_exams(inputs, SETTINGS, everyone), SETTINGS)
    assert set(parts.index) == everyone and np.isfinite(parts.to_numpy()).all()


def test_too_few_exams_are_one_clear_error(contest: Contest) -> None:
    exams = training_exams(contest)
    first = set(exams.loc[exams["fold"] == 0, STUDY])
    part = search_exams(read_inputs(SETTINGS), SETTINGS, first)
    with pytest.raises(UserError, match="Too few training exams for a search: .* PE in 1 folds, and 1 are held out"):
        require_enough(part, 1)


def test_the_gain_is_paired_over_exams() -> None:
    weight = np.full(40, 2.0)
    loss = np.random.default_rng(0).gamma(2, 0.2, 40)
    zero = dict.fromkeys(("image_loss", "image_weight", *EXAM_LABELS), 0.0)
    recipe = pd.DataFrame({"exam_loss": loss * weight, "exam_weight": weight, **zero})
    gain = paired_gain(recipe, recipe.assign(exam_loss=(loss - 0.02) * weight), resamples=200, seed=1)
    assert (gain.chosen - gain.recipe, gain.low, gain.high) == pytest.approx((-0.02, -0.02, -0.02))
    assert str(gain).endswith(": a gain")
    assert str(paired_gain(recipe, recipe, resamples=200, seed=1)).endswith("no gain shown: the interval contains 0")


# ---------------------------------------------------------------- ranges


def test_ranges_surround_the_recipe_and_keep_what_is_switched_off() -> None:
    for tried in RANGES:
        assert tried.low <= value_of(SETTINGS, tried.key) <= tried.high
    off = dataclasses.replace(SETTINGS, ensemble=dataclasses.replace(QUICK, exam_rounds=0, ridge=0.0))
    assert {tried.key for tried in RANGES} - {tried.key for tried in ensemble_ranges(off)} == {
        "ensemble.exam_rounds", "ensemble.ridge"
    }  # fmt: skip


def test_training_settings_include_exam_networks_only_where_there_are_some() -> None:
    keys = {tried.key for tried in network_ranges(SETTINGS)}
    assert "models.learning_rate" in keys and not any(key.startswith("models.exam.") for key in keys)
    models = dataclasses.replace(SETTINGS.models, exam=ExamNetworkSettings(kinds=("gru",)))
    assert "models.exam.learning_rate" in {
        tried.key for tried in network_ranges(dataclasses.replace(SETTINGS, models=models))
    }


def test_values_replace_settings_of_nested_sections() -> None:
    changed = with_values(SETTINGS, {"ensemble.ridge": 2.0, "models.exam.dropout": 0.1})
    assert differences(SETTINGS.as_dict(), changed.as_dict()) == {
        "ensemble.ridge": (0.5, 2.0), "models.exam.dropout": (0.3, 0.1)
    }  # fmt: skip


# ---------------------------------------------------------------- trials


def distance(number: int, values: dict[str, float]) -> float:
    """A metric whose best values are small."""
    return float(sum(np.log1p(value) for value in values.values()))


def trials_of(journal: Path, budget: int, evaluate=distance) -> list[dict[str, float]]:
    found = run_trials(journal, "study", RANGES, evaluate, budget=budget, seed=1, title="ensemble")
    assert [trial.number for trial in found] == sorted({trial.number for trial in found}) and len(found) == budget
    return [trial.values for trial in found]


def test_trials_stay_in_their_ranges_and_a_larger_budget_continues(tmp_path: Path) -> None:
    few = trials_of(tmp_path / "journal.log", 3)
    many = trials_of(tmp_path / "journal.log", 12)
    assert many[:3] == few and trials_of(tmp_path / "other.log", 12) == many
    for values in many:
        for tried in RANGES:
            assert tried.low * 0.99 <= values[tried.key] <= tried.high * 1.01
            assert isinstance(values[tried.key], int) == tried.is_integer


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.ensemble.test_search import distance, trials_of

def evaluate(number, values):
    if number == 7:
        os.kill(os.getpid(), signal.SIGKILL)
    return distance(number, values)

trials_of(Path(sys.argv[1]), 10, evaluate)
"""


@pytest.mark.slow
def test_a_killed_search_tries_the_same_values_as_one_that_was_not(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    command = [sys.executable, "-c", KILLED, str(journal)]
    killed = subprocess.run(command, cwd=paths.CHECKOUT, env={**os.environ, "PYTHONPATH": str(paths.CHECKOUT)})
    assert killed.returncode == -signal.SIGKILL
    with journal.open("ab") as file:
        file.write(b'{"op_code": 6, "trial')  # a write that was cut off
    assert trials_of(journal, 10) == trials_of(tmp_path / "uninterrupted.log", 10)


def test_a_failed_trial_is_not_repeated(tmp_path: Path) -> None:
    tried = []

    def evaluate(number: int, values: dict[str, float]) -> float:
        tried.append(values)
        if number == 2:
            raise TrialFailed("diverged")
        return distance(number, values)

    with pytest.raises(TrialFailed, match="diverged"):
        trials_of(tmp_path / "journal.log", 3, evaluate)
    found = trials_of(tmp_path / "journal.log", 3, evaluate)
    assert len(tried) == 4 and tried[1] not in found and found == [tried[0], *tried[2:]]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    journal = tmp_path / "journal.log"
    trials_of(journal, 2)
    journal.write_bytes(b"not a journal\n" + journal.read_bytes())
    with pytest.raises(UserError, match=r"Damaged journal of the search: .*journal\.log.* Remove it"):
        trials_of(journal, 2)


# ---------------------------------------------------------------- the command


@pytest.mark.slow
def test_the_chosen_settings_are_a_settings_file_and_nothing_else_changes(
    contest: Contest, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = files_below(tmp_path)
    search(SETTINGS, budget=3)
    folder = paths.experiment() / "search"
    (file,) = folder.glob("*,searched.toml")
    result = json.loads((folder / RESULT).read_text())
    changed = differences(SETTINGS.as_dict(), load_settings(file).as_dict())
    assert {key: new for key, (_, new) in changed.items()} == result["chosen"]
    assert all(key.startswith("ensemble.") for key in changed)
    metrics = result["metric on the exams that choose"]
    assert metrics["chosen"] == min([metrics["recipe"], *(trial["metric"] for trial in result["trials"]["ensemble"])])
    assert result["exams"] == {"choose": 33, "held out": 15}
    printed = capsys.readouterr().out
    gain = result["gain on the held-out exams"]
    assert f"on 15 exams that chose nothing: metric {gain['chosen']:.4f} instead of {gain['recipe']:.4f}" in printed
    assert "predicting the prior" not in printed and f"./run.sh --settings '{paths.shown(file)}'" in printed
    after = files_below(tmp_path)
    assert {path: after[path] for path in before} == before
    assert {path for path in after if folder not in path.parents} - set(before) == {
        paths.experiment() / "settings.toml"
    }


@pytest.mark.slow
def test_a_second_search_repeats_no_trial(contest: Contest, capsys: pytest.CaptureFixture[str]) -> None:
    search(SETTINGS, budget=2)
    first = (paths.experiment() / "search" / RESULT).read_text()
    capsys.readouterr()
    search(SETTINGS, budget=2)
    assert "2 of 2 trials are finished" in capsys.readouterr().out
    again = json.loads((paths.experiment() / "search" / RESULT).read_text())
    assert again["chosen"] == json.loads(first)["chosen"]
    other = dataclasses.replace(SETTINGS, ensemble=dataclasses.replace(QUICK, ridge=1.0))
    (paths.experiment() / "settings.toml").unlink()
    search(other, budget=2)
    assert "trials are finished" not in capsys.readouterr().out


def test_the_gain_is_measured_on_the_held_out_exams_alone(contest: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        search_module, "paired_gain", lambda *parts, **options: seen.extend(parts) or paired_gain(*parts, **options)
    )
    search(SETTINGS, budget=1)
    exams = training_exams(contest)
    held_out = exams.loc[is_held_out(exams, {}), STUDY].tolist()
    assert [part.index.tolist() for part in seen] == [held_out, held_out]


@pytest.mark.slow
def test_better_networks_are_chosen_and_then_their_ensemble(contest: Contest, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = []

    def train(self, number: int, settings: Settings) -> Inputs:
        trained.append(settings.models.learning_rate)
        view = self.inputs.out_of_fold
        if number == 2:  # the networks of this trial are far better
            logits = {"alpha": view.logits["alpha"] + 8 * (view.slice_truth - 0.5)}
            view = dataclasses.replace(view, logits=logits, cache={})
        return dataclasses.replace(self.inputs, out_of_fold=view)

    monkeypatch.setattr(search_module._Search, "_trained", train)
    search(SETTINGS, budget=2, networks=True)
    folder = paths.experiment() / "search"
    result = json.loads((folder / RESULT).read_text())
    first, second = result["trials"]["networks"]
    assert second["metric"] < first["metric"] and len(result["trials"]["ensemble"]) == 2
    assert result["chosen"]["models.learning_rate"] == second["values"]["models.learning_rate"]
    assert trained == [first["values"]["models.learning_rate"]] + 2 * [second["values"]["models.learning_rate"]]
    gain = result["gain on the held-out exams"]
    assert gain["high"] < 0 and gain["chosen"] < gain["recipe"]
    assert load_settings(next(folder.glob("*.toml"))).models.learning_rate == trained[1]


@pytest.mark.parametrize("status", [0, 1])
def test_a_trial_of_networks_is_an_experiment_of_its_own(
    status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    commands = []

    def run(command: list[str]) -> subprocess.CompletedProcess:
        commands.append(command[1:])
        return subprocess.CompletedProcess(command, status)

    monkeypatch.setattr(search_networks.subprocess, "run", run)
    if status:
        with pytest.raises(TrialFailed, match="The training of trial 3 failed: mine,search=3"):
            train_trial("mine", 3, SETTINGS)
    else:
        train_trial("mine", 3, SETTINGS)
    assert commands == [["--name", "mine,search=3", "--from", "models", "--to", "models"]]
    assert recorded_settings("mine,search=3").ensemble == QUICK


def test_two_searches_of_an_experiment_do_not_run_at_once(contest: Contest) -> None:
    with (
        locked(paths.experiment() / "search" / ".running"),
        pytest.raises(UserError, match="Another search is using .* Wait for it to end"),
    ):
        search(SETTINGS, budget=1)


def test_the_command_line_selects_the_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(search_module, "search", lambda settings, **options: calls.append((settings, options)))
    monkeypatch.setattr(sys, "argv", ["ensemble", "search", "--budget", "3", "--settings", "settings/tests.toml"])
    assert main() == 0
    assert calls[0][0].phantom.name == "tiny" and calls[0][1] == {"budget": 3, "networks": False}
    with pytest.raises(UserError, match="--budget 0: expected at least 1"):
        search(SETTINGS, budget=0)
