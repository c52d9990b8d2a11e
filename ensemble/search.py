"""The `search` command: try settings, choose some on a part of the training exams, and measure the gain on the others.

Files in the experiment's folder:

    search/journal.log            Optuna's journal of all trials; a killed search resumes from it
    search/<name>,searched.toml   the chosen settings
    search/search.json            exams, trials, chosen values and gain

The metric of a trial is that of the stack's decoded out-of-fold predictions of the exams that choose. Then the stack is
fitted with the recipe and with the chosen settings as `ensemble fit` does, and both are compared on the held-out exams.
Neither the test exams nor the labels of held-out exams are read before that; only the networks of the other folds have
learned from a held-out exam, as they have in every out-of-fold prediction.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.ensemble_inputs import Inputs, read_inputs
from ensemble.fit_ensemble import ensemble_artifact
from ensemble.search_exams import SearchExams, is_held_out, require_enough, search_exams, stack_contributions
from ensemble.search_networks import train_trial
from ensemble.search_space import Range, ensemble_ranges, network_ranges, value_of, with_values
from ensemble.search_study import Trial, best_trial, run_trials
from input.contest import STUDY
from input.contest_tree import ContestTree, read_groups
from input.metric import bootstrap_totals, score_of
from models.apply_networks import require_networks
from models.network_artifacts import connect_networks
from pipeline import paths
from pipeline.console import muted, reminders, say
from pipeline.errors import UserError
from pipeline.experiments import start
from pipeline.file_lock import locked
from pipeline.files import write_json, write_text
from pipeline.identity import identity_of
from pipeline.settings import Settings
from pipeline.settings_text import settings_text, with_absolute_data

#: Raised when the metric of a trial changes its meaning: old trials are then not reused.
VERSION = 1
JOURNAL, RESULT = "journal.log", "search.json"


@dataclasses.dataclass(frozen=True)
class Gain:
    """The chosen settings compared with the recipe on exams that chose nothing.

    Attributes:
        recipe, chosen: the metric, lower is better.
        low, high: limits of the 95 % interval of their difference, paired over exams.
    """

    recipe: float
    chosen: float
    low: float
    high: float

    def __str__(self) -> str:
        verdict = "a gain" if self.high < 0 else "a loss" if self.low > 0 else "no gain shown: the interval contains 0"
        return (
            f"metric {self.chosen:.4f} instead of {self.recipe:.4f}, {self.chosen - self.recipe:+.4f} "
            f"(95 % {self.low:+.4f} to {self.high:+.4f}): {verdict}"
        )


def search(settings: Settings, *, budget: int, networks: bool = False) -> None:
    """Search settings for an experiment whose networks are trained, and write the chosen ones.

    Args:
        settings: the recipe that the search starts from.
        budget: number of trials, those of an earlier search included.
        networks: first try as many training settings; every trial trains all networks.

    Raises:
        UserError: networks that are not trained, too few exams, another search, or a trial that failed.
    """
    if budget < 1:
        raise UserError(f"--budget {budget}: expected at least 1.")
    start(settings)
    connect_networks(settings)
    require_networks(settings)
    folder = paths.experiment() / "search"
    with locked(folder / ".running", wait=False) as is_free:
        if not is_free:
            raise UserError(f"Another search is using {paths.shown(folder)}. Wait for it to end.")
        _Search(settings, folder, budget).run(networks=networks)


class _Search:
    """A search with the exams that it uses; the arguments are those of `search`."""

    def __init__(self, settings: Settings, folder: Path, budget: int) -> None:
        self.recipe, self.folder, self.budget = settings, folder, budget
        self.experiment = paths.experiment().name
        self.identity = ensemble_artifact(settings).identity
        self.inputs = read_inputs(settings)
        exams, _ = self.inputs.rows("train")
        held_out = is_held_out(exams, _groups(settings))
        self.studies, self.choosing = set(exams[STUDY]), set(exams.loc[~held_out, STUDY])
        self.held_out = exams.loc[held_out, STUDY].to_numpy()
        self.part = search_exams(self.inputs, settings, self.choosing)
        require_enough(self.part, len(self.held_out))

    def run(self, *, networks: bool) -> None:
        """Run all trials, compare the best with the recipe, write and print the result."""
        say(
            f"search: {len(self.choosing)} training exams choose the settings, {len(self.held_out)} others measure "
            "the gain"
        )
        before = chosen_metric = self._metric(self.part, self.recipe, "the recipe")
        say(f"search: the recipe: metric {before:.4f} on the exams that choose")
        chosen, inputs, trials = self.recipe, self.inputs, {}
        if networks:
            trials["networks"] = self._run_trials("networks", network_ranges(self.recipe))
            best = best_trial(trials["networks"])
            if best.metric < chosen_metric:
                chosen, chosen_metric = with_values(self.recipe, best.values), best.metric
                inputs = self._trained(best.number, chosen)
        trials["ensemble"] = self._run_trials("ensemble", ensemble_ranges(self.recipe), chosen, inputs)
        best = best_trial(trials["ensemble"])
        if best.metric < chosen_metric:
            chosen, chosen_metric = with_values(chosen, best.values), best.metric
        gain = self._gain(chosen, inputs)
        self._write(chosen, trials, before, chosen_metric, gain)

    def _run_trials(
        self, title: str, ranges: Sequence[Range], settings: Settings | None = None, inputs: Inputs | None = None
    ) -> list[Trial]:
        """Run the trials of a study.

        Args:
            title: of the study: networks or ensemble.
            ranges: what is tried.
            settings: whose values are replaced; None: those of the recipe.
            inputs: predictions of the networks of `settings`; None: each trial trains its own networks.
        """
        base = settings or self.recipe
        part = search_exams(inputs, base, self.choosing) if inputs else None

        def evaluate(number: int, values: dict[str, float]) -> float:
            tried = with_values(base, values)
            own = part or search_exams(self._trained(number, tried), tried, self.choosing)
            return self._metric(own, tried, f"{title}: trial {number}")

        about = [VERSION, self.identity, sorted(self.choosing), [dataclasses.astuple(tried) for tried in ranges]]
        name = f"{title}-{identity_of([*about, base.as_dict()['models']])}"
        seed = self.recipe.ensemble.seed
        return run_trials(
            self.folder / JOURNAL, name, ranges, evaluate, budget=self.budget, seed=seed, title=title
        )  # fmt: skip

    def _trained(self, number: int, settings: Settings) -> Inputs:
        """Train the networks of a trial, unless they are finished, and read their predictions."""
        try:
            train_trial(self.experiment, number, settings)
            return read_inputs(settings)
        finally:
            paths.select_experiment(self.experiment)

    def _metric(self, part: SearchExams, settings: Settings, title: str) -> float:
        with reminders(lambda: f"search: {title}: fitting"), muted():
            return score_of(stack_contributions(part, settings)).total

    def _gain(self, chosen: Settings, inputs: Inputs) -> Gain:
        """Compare the chosen settings with the recipe on the held-out exams."""
        parts = []
        for settings, of_settings in ((self.recipe, self.inputs), (chosen, inputs)):
            part = search_exams(of_settings, settings, self.studies)
            with reminders(lambda: "search: held-out exams: fitting"), muted():
                parts.append(stack_contributions(part, settings).loc[self.held_out])
        return paired_gain(*parts, resamples=self.recipe.ensemble.bootstrap, seed=self.recipe.ensemble.seed)

    def _write(
        self, chosen: Settings, trials: dict[str, list[Trial]], before: float, after: float, gain: Gain
    ) -> None:  # fmt: skip
        """Write the chosen settings and the result, and print them."""
        changed = changed_values(self.recipe, chosen, trials)
        file = self.folder / f"{self.experiment},searched.toml"
        count = " and ".join(f"{len(of_kind)} trials of [{section(kind)}]" for kind, of_kind in trials.items())
        comment = f"Chosen by ./run.sh search in {count}. On {len(self.held_out)} exams that chose nothing: {gain}."
        write_text(file, settings_text(with_absolute_data(chosen).as_dict(), comment))
        write_json(
            self.folder / RESULT,
            {
                "exams": {"choose": len(self.choosing), "held out": len(self.held_out)},
                "metric on the exams that choose": {"recipe": before, "chosen": after},
                "gain on the held-out exams": dataclasses.asdict(gain),
                "chosen": {key: new for key, (_, new) in changed.items()},
                "trials": {kind: [dataclasses.asdict(trial) for trial in of_kind] for kind, of_kind in trials.items()},
            },
        )
        for kind, of_kind in trials.items():
            seconds = float(np.median([trial.seconds for trial in of_kind]))
            say(f"search: {len(of_kind)} trials of [{section(kind)}], {seconds:.1f} s each (median)")
        if changed:
            say(f"search: metric {after:.4f} instead of {before:.4f} on the exams that chose")
            for key, (old, new) in changed.items():
                say(f"  {key}: {old:g} -> {new:g}")
        else:
            say("search: no trial was better than the recipe on the exams that choose; the recipe stays")
        say(f"search: on {len(self.held_out)} exams that chose nothing: {gain}")
        say(f"chosen settings: {paths.shown(file)}")
        say(f"use them:        ./run.sh --settings '{paths.shown(file)}'")


def section(kind: str) -> str:
    """The section of the settings that a kind of trial tries."""
    return {"networks": "models"}.get(kind, kind)


def changed_values(recipe: Settings, chosen: Settings, trials: dict[str, list[Trial]]) -> dict[str, tuple[Any, Any]]:
    """Setting -> its value in the recipe and its chosen value, where they differ."""
    keys = [key for of_kind in trials.values() for key in of_kind[0].values]
    values = {key: (value_of(recipe, key), value_of(chosen, key)) for key in keys}
    return {key: (old, new) for key, (old, new) in values.items() if old != new}


def paired_gain(recipe: pd.DataFrame, chosen: pd.DataFrame, *, resamples: int, seed: int) -> Gain:
    """Compare two predictions of the same exams.

    Args:
        recipe, chosen: contributions to the metric (`input.metric.contributions`), exams in the same order.
        resamples: bootstrap resamples of exams.
        seed: of the resamples.
    """
    before, after = (bootstrap_totals(part, resamples, seed) for part in (recipe, chosen))
    low, high = np.quantile(after - before, [0.025, 0.975])
    return Gain(score_of(recipe).total, score_of(chosen).total, float(low), float(high))


def _groups(settings: Settings) -> dict[str, str]:
    """Exams that belong together, as the folds respect them."""
    tree = ContestTree(settings.data_root)
    groups = read_groups(tree)
    if tree.faults:
        raise UserError.listing("Unusable groups of exams:", tree.faults)
    return groups
