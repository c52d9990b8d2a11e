"""Simulated predictions of networks: exams with label states, slices with correlated logits; no images, no training.

They resemble those of slice networks of a small contest: slice AUC within positive exams about .90, exam AUC of the
highest slice about .80, correlated errors between backbones, noisy outputs for the exam labels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ensemble.predictions import Measured
from input.contest import (
    ACUTE_AND_CHRONIC,
    CENTRAL,
    CHRONIC,
    EXAM_LABELS,
    GTE_1,
    INDETERMINATE,
    LEFT,
    LT_1,
    NEGATIVE,
    QA_CONTRAST,
    QA_MOTION,
    RIGHT,
    SERIES,
    SLICE_LABEL,
    SOP,
    STUDY,
)
from input.phantom.difficulty import difficulty_named
from input.phantom.labels import label_row, sample_q, sample_states
from pipeline import paths
from pipeline.files import sha256, write_json

#: Quantile -> slices per exam of the contest: the published ones (63, 131, 172, 212, 234, 256, 1083) and two that make
#: the mean equal to the published 246.
CONTEST_SLICES = {0: 63, 0.01: 131, 0.05: 172, 0.25: 212, 0.5: 234, 0.75: 256, 0.95: 335, 0.99: 490, 1: 1083}
#: Where the ensemble reads, below an artifact root.
LINKS = Path("experiments") / paths.UNNAMED / paths.LINKS
HEAD_LABELS = (GTE_1, LEFT, RIGHT, CENTRAL, CHRONIC, ACUTE_AND_CHRONIC, QA_MOTION, QA_CONTRAST)


@dataclass
class Contest:
    """The tables of a simulated contest.

    Attributes:
        exams, slices: as in input/prepared, test labels missing.
        test_exams, test_slices: the rows of the test split with their labels.
        networks: backbone -> fold -> predictions, as the ensemble reads them.
        measured: measurements of slices and exams, as in features/store.
    """

    exams: pd.DataFrame
    slices: pd.DataFrame
    test_exams: pd.DataFrame
    test_slices: pd.DataFrame
    networks: dict[str, dict[int, pd.DataFrame]]
    measured: Measured


def simulate_contest(
    *, train: int, test: int, seed: int, folds: int, backbones: tuple[str, ...]
) -> tuple[Contest, Iterator[tuple[str, int, pd.DataFrame]]]:
    """Simulate a contest with the real one's joint label states, share of positive slices and slices per exam.

    Args:
        train, test: number of exams.
        seed: of the random numbers.
        folds: number of folds.
        backbones: names of the networks.

    Returns:
        The contest without networks, and an iterator over (backbone, fold, predictions), which do not fit into memory
        all at once.
    """
    generator = np.random.default_rng(seed)
    exams = _contest_exams(generator, train + test)
    levels = generator.random(train + test)
    sizes = np.interp(levels, list(CONTEST_SLICES), list(CONTEST_SLICES.values())).astype(int)
    contest, table = _contest(generator, exams, sizes, train, folds)
    return contest, _networks(generator, exams, table, backbones, folds, 1.0)


def simulate(
    *,
    train: int = 240,
    test: int = 120,
    seed: int = 0,
    folds: int = 3,
    backbones: tuple[str, ...] = ("alpha", "beta"),
    slices: int = 44,
    positive_share: float = 0.5,
    signal: float = 1.0,
) -> Contest:
    """Simulate a small contest with its networks' predictions.

    Args:
        train, test: number of exams.
        seed: of the random numbers.
        folds: number of folds.
        backbones: names of the networks.
        slices: mean number of slices per exam.
        positive_share: share of exams with PE.
        signal: scale of the effect of the labels on the predictions; 0 gives noise.
    """
    generator = np.random.default_rng(seed)
    exams = _exams(generator, train + test, positive_share)
    sizes = generator.integers(int(slices * 0.8), int(slices * 1.2) + 1, len(exams))
    contest, table = _contest(generator, exams, sizes, train, folds)
    for backbone, fold, rows in _networks(generator, exams, table, backbones, folds, signal):
        contest.networks.setdefault(backbone, {})[fold] = rows
    return contest


def _contest(
    generator: np.random.Generator, exams: pd.DataFrame, sizes: np.ndarray, train: int, folds: int
) -> tuple[Contest, pd.DataFrame]:
    """Return the contest without networks, and the slice table with all labels for the networks."""
    exams["split"] = np.where(np.arange(len(exams)) < train, "train", "test")
    exams["fold"] = np.where(exams["split"] == "train", np.arange(len(exams)) % folds, -1)
    table = _slices(generator, exams, sizes)
    exams["q"] = table.groupby(STUDY, sort=False)[SLICE_LABEL].mean().reindex(exams[STUDY]).to_numpy()
    measured = Measured(
        pd.DataFrame({STUDY: table[STUDY], SOP: table[SOP], "lung_share": 1 - (2 * table["relative"] - 1) ** 2}),
        pd.DataFrame({STUDY: exams[STUDY], "vessel_hu": exams["vessel_hu"]}),
    )
    visible = table.drop(columns=["relative"])
    testing, test_rows = exams["split"] == "test", (table["split"] == "test").to_numpy()
    hidden, hidden_slices = exams.copy(), visible.copy()
    hidden.loc[testing, [*EXAM_LABELS, QA_MOTION, QA_CONTRAST, "q"]] = np.nan
    hidden_slices.loc[test_rows, SLICE_LABEL] = np.nan
    return Contest(hidden, hidden_slices, exams[testing], visible[test_rows], {}, measured), table


def write_contest(contest: Contest, root: Path) -> None:
    """Write the tables to the locations that the ensemble reads, below an artifact root (PE_ROOT)."""
    links = root / LINKS
    for folder, tables in (
        (links / "prepared", {"exams": contest.exams, "slices": contest.slices}),
        (links / "store", {"exams": contest.measured.exams, "slices": contest.measured.slices}),
        (links / "masks", {}),
    ):
        _write_artifact(folder, "simulated", tables)
    for backbone, folds in contest.networks.items():
        for fold, table in folds.items():
            write_network(root, backbone, fold, table)


def write_network(root: Path, backbone: str, fold: int, table: pd.DataFrame) -> None:
    """Write one network's predictions to the location that the ensemble reads.

    Args:
        root: the artifact root (PE_ROOT).
        backbone: name of the network.
        fold: its held-out fold.
        table: its predictions.
    """
    folder = root / LINKS / "models" / backbone / f"fold{fold}"
    _write_artifact(folder, f"{backbone}{fold}", {"slices": table})


def _write_artifact(folder: Path, identity: str, tables: dict[str, pd.DataFrame]) -> None:
    folder.mkdir(parents=True)
    for name, table in tables.items():
        table.to_parquet(folder / f"{name}.parquet", index=False)
    files = {file.name: sha256(file) for file in folder.iterdir()}
    write_json(folder / "manifest.json", {"identity": identity, "files": files})


def _exams(generator: np.random.Generator, count: int, positive_share: float) -> pd.DataFrame:
    positive = generator.random(count) < positive_share
    burden = np.clip(generator.lognormal(np.log(0.15), 0.8, count), 0.02, 0.85) * positive
    effect = np.log(np.maximum(burden, 0.02) / 0.15)
    table = pd.DataFrame(0.0, index=range(count), columns=[*EXAM_LABELS, QA_MOTION, QA_CONTRAST])
    indeterminate = ~positive & (generator.random(count) < 0.04)
    table[NEGATIVE] = (~positive & ~indeterminate) * 1.0
    table[INDETERMINATE] = indeterminate * 1.0
    motion = generator.random(count) < 0.4
    table[QA_MOTION] = (indeterminate & motion) * 1.0
    table[QA_CONTRAST] = (indeterminate & ~motion) * 1.0
    strained = generator.random(count) < 1 / (1 + np.exp(0.3 - effect))
    table[GTE_1], table[LT_1] = (positive & strained) * 1.0, (positive & ~strained) * 1.0
    central = positive & (generator.random(count) < 1 / (1 + np.exp(1.8 - 1.4 * effect)))
    right = positive & (generator.random(count) < 0.85)
    left = positive & ((generator.random(count) < 0.7) | ~(right | central))
    table[CENTRAL], table[LEFT], table[RIGHT] = central * 1.0, left * 1.0, right * 1.0
    age = generator.random(count)
    table[CHRONIC] = (positive & (age < 0.13)) * 1.0
    table[ACUTE_AND_CHRONIC] = (positive & (age >= 0.13) & (age < 0.2)) * 1.0
    return _with_keys(generator, table, burden)


def _contest_exams(generator: np.random.Generator, count: int) -> pd.DataFrame:
    """Exams with the contest's joint label states, 30.4 % of them with PE."""
    states = sample_states(count, 2211 / 7279, generator)
    table = pd.DataFrame([label_row(state.labels) for state in states], dtype=float)
    contest = difficulty_named("contest")
    burden = np.array([sample_q(state.quartile, contest, generator) if state.positive else 0.0 for state in states])
    return _with_keys(generator, table, burden)


def _with_keys(generator: np.random.Generator, table: pd.DataFrame, burden: np.ndarray) -> pd.DataFrame:
    count = len(table)
    table["burden"] = burden
    table["vessel_hu"] = np.where(table[QA_CONTRAST] > 0, 170, 350) + generator.normal(0, 40, count)
    table.insert(0, SERIES, [f"{2 * number + 1:012x}" for number in range(count)])
    table.insert(0, STUDY, [f"{2 * number:012x}" for number in generator.permutation(count)])
    return table


def _slices(generator: np.random.Generator, exams: pd.DataFrame, sizes: np.ndarray) -> pd.DataFrame:
    owner = np.repeat(np.arange(len(exams)), sizes)
    first = np.cumsum(sizes) - sizes
    rank = np.arange(len(owner)) - first[owner]
    relative = (rank + 0.5) / sizes[owner]
    burden = exams["burden"].to_numpy()
    pieces = 3
    positive = np.zeros(len(owner), bool)
    for _ in range(pieces):
        centre = np.clip(generator.normal(0.5, 0.13, len(exams)), 0.1, 0.9)
        half = np.maximum(burden / pieces / 2 * generator.uniform(0.6, 1.6, len(exams)), 0.51 / sizes)
        positive |= (np.abs(relative - centre[owner]) <= half[owner]) & (burden[owner] > 0)
    return pd.DataFrame(
        {
            STUDY: exams[STUDY].to_numpy()[owner],
            SERIES: exams[SERIES].to_numpy()[owner],
            SOP: [f"{number:012x}" for number in generator.permutation(len(owner))],
            "split": exams["split"].to_numpy()[owner],
            "position": rank,
            "z_mm": rank * (280 / sizes)[owner] - 300,
            SLICE_LABEL: positive * 1.0,
            "quarantine": "",
            "relative": relative,
        }
    )


def _networks(
    generator: np.random.Generator,
    exams: pd.DataFrame,
    slices: pd.DataFrame,
    backbones: tuple[str, ...],
    folds: int,
    signal: float,
) -> Iterator[tuple[str, int, pd.DataFrame]]:
    """Yield (backbone, fold, predictions of the fold's held-out exams and of the test exams, rows shuffled)."""
    owner = pd.Index(exams[STUDY]).get_indexer(slices[STUDY])
    count, n = len(exams), len(slices)
    visible = np.maximum(generator.normal(1.9, 1.1, count), 0.1)
    shape = 1.5 - 6 * (2 * slices["relative"].to_numpy() - 1) ** 2 / 2
    shared_exam, shared_slice = generator.normal(0, 0.5, count), _waves(generator, n)
    shared_heads = {label: generator.normal(0, 0.7, count) for label in HEAD_LABELS}
    for backbone in backbones:
        for fold in range(folds):
            own_exam, own_slice = generator.normal(0, 0.5, count), _waves(generator, n)
            # Every network has its own shift and scale.
            shift, scale = generator.normal(-1.0, 0.25), generator.uniform(0.85, 1.15)
            evidence = signal * visible[owner] * slices[SLICE_LABEL].to_numpy()
            value = evidence + shape + (shared_exam + own_exam)[owner] + 0.7 * (shared_slice + own_slice) + shift
            table = {
                STUDY: slices[STUDY],
                SOP: slices[SOP],
                "role": np.where(slices["split"] == "test", "test", "oof"),
                "pe": 1 / (1 + np.exp(-scale * value)),
            }
            for label in HEAD_LABELS:
                # Labels that exist only in exams with PE have no signal in the others.
                known = (exams["burden"].to_numpy() > 0) | (label in (QA_MOTION, QA_CONTRAST))
                truth = (2 * exams[label].to_numpy() - 1) * known
                exam_logit = 0.5 * signal * truth + shared_heads[label] + generator.normal(0, 0.5, count)
                weight = 0.3 + 0.7 / (1 + np.exp(-value))
                head_logit = weight * exam_logit[owner] + generator.normal(0, 0.8, n) + np.log(0.3 / 0.7)
                table[label] = 1 / (1 + np.exp(-head_logit))
            predictions = pd.DataFrame(table)
            keep = (slices["split"] == "test").to_numpy() | (exams["fold"].to_numpy()[owner] == fold)
            yield backbone, fold, predictions[keep].sample(frac=1, random_state=fold)


def _waves(generator: np.random.Generator, n: int) -> np.ndarray:
    """Noise that is correlated between neighbouring slices, with a variance of about 1."""
    noise = generator.normal(size=n + 4)
    return np.convolve(noise, [0.35, 0.55, 0.7, 0.55, 0.35], "same")[:n] / 1.17
