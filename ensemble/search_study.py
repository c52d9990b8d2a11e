"""The trials of a search: an Optuna study in a journal file, resumed after kill -9 with the trial that was lost.

Every trial is suggested by a sampler whose seed is the number of the trial, from the finished trials alone. A search
that was killed therefore tries the same values as one that was not.
"""

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble.search_space import Range, rounded
from pipeline import paths
from pipeline.console import progress_visible, say
from pipeline.errors import UserError

if TYPE_CHECKING:
    import optuna

#: Attribute of a trial in the journal: it ended with an error and is not repeated.
IMPOSSIBLE = "impossible"


@dataclasses.dataclass(frozen=True)
class Trial:
    """A finished trial.

    Attributes:
        number: from 1.
        values: setting -> value.
        metric: lower is better.
        seconds: wall time.
    """

    number: int
    values: dict[str, float]
    metric: float
    seconds: float


class TrialFailed(UserError):
    """A trial cannot be finished with its values; the next search continues with others."""


def run_trials(
    journal: Path,
    name: str,
    ranges: Sequence[Range],
    evaluate: Callable[[int, dict[str, float]], float],
    *,
    budget: int,
    seed: int,
    title: str,
) -> list[Trial]:
    """Run the trials that are missing.

    The caller holds a lock on the journal: no other process writes to it.

    Args:
        journal: the journal file, which may contain several studies.
        name: of the study; it identifies everything that the metric depends on.
        ranges: what is tried.
        evaluate: number of the trial and values -> metric, lower is better.
        budget: number of trials, finished ones included.
        seed: of the suggestions.
        title: of the study, for messages.

    Returns:
        The finished trials, in their order.

    Raises:
        UserError: the journal is damaged.
        TrialFailed: of a trial; it is recorded.
    """
    from tqdm import tqdm

    study = _open_study(journal, name)
    trials, failed = _finished(study, ranges)
    if trials:
        say(f"search: {title}: {len(trials)} of {budget} trials are finished")
    with tqdm(
        total=budget, initial=len(trials), desc=title, unit="trial", disable=not progress_visible(), leave=False
    ) as bar:
        while len(trials) < budget:
            number = len(trials) + failed + 1
            trial, values = _suggest(study, ranges, seed + number)
            started = time.monotonic()
            try:
                metric = evaluate(number, values)
            except TrialFailed:
                trial.set_user_attr(IMPOSSIBLE, True)
                _record(study, trial, None)
                raise
            _record(study, trial, metric)
            trials.append(Trial(number, values, metric, time.monotonic() - started))
            best = best_trial(trials)
            say(
                f"search: {title}: trial {len(trials)} of {budget}: metric {metric:.4f}, best {best.metric:.4f} "
                f"(trial {best.number})"
            )
            bar.update()
    return trials


def best_trial(trials: Sequence[Trial]) -> Trial:
    """The trial with the lowest metric, the first of equals."""
    return min(trials, key=lambda trial: trial.metric)


def _open_study(journal: Path, name: str) -> "optuna.Study":
    """Create or load a study; trials that a killed search left behind are marked as failed."""
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    class HeldLock(JournalFileOpenLock):
        """Optuna's own lock file would outlive a killed process; the caller holds a lock that does not."""

        def acquire(self) -> bool:
            return True

        def release(self) -> None:
            return None

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    journal.parent.mkdir(parents=True, exist_ok=True)
    _drop_partial_line(journal)
    try:
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal), lock_obj=HeldLock(str(journal))))
        study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
        for trial in study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.RUNNING]):
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    except (ValueError, KeyError) as fault:
        raise UserError(
            f"Damaged journal of the search: {paths.shown(journal)}: {fault}. Remove it to start the search again."
        ) from fault
    return study


def _drop_partial_line(journal: Path) -> None:
    """Remove a last line that a killed process or a full disk left incomplete; Optuna would append to it."""
    if not journal.is_file():
        return
    data = journal.read_bytes()
    complete = data.rfind(b"\n") + 1
    if complete < len(data):
        os.truncate(journal, complete)


def _finished(study: "optuna.Study", ranges: Sequence[Range]) -> tuple[list[Trial], int]:
    """The finished trials, numbered as they were suggested, and how many trials failed with their values."""
    from optuna.trial import TrialState

    trials: list[Trial] = []
    failed = 0
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            seconds = trial.duration.total_seconds() if trial.duration else 0.0
            trials.append(Trial(len(trials) + failed + 1, rounded(ranges, trial.params), trial.value, seconds))
        failed += bool(trial.user_attrs.get(IMPOSSIBLE))
    return trials, failed


def _suggest(study: "optuna.Study", ranges: Sequence[Range], seed: int) -> tuple["optuna.Trial", dict[str, float]]:
    import optuna
    from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

    distributions: dict[str, BaseDistribution] = {}
    for tried in ranges:
        if tried.is_integer:
            distributions[tried.key] = IntDistribution(int(tried.low), int(tried.high), log=tried.is_log)
        else:
            distributions[tried.key] = FloatDistribution(tried.low, tried.high, log=tried.is_log)
    study.sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)
    trial = study.ask(distributions)
    return trial, rounded(ranges, trial.params)


def _record(study: "optuna.Study", trial: Any, metric: float | None) -> None:
    from optuna.trial import TrialState

    study.tell(trial, metric, state=TrialState.FAIL if metric is None else TrialState.COMPLETE)
