"""LightGBM on top of a base model: trees learn the residual of the base model's logit.

Boosting starts at the base model's logit, so zero rounds are the base model itself. The number of rounds, zero
included, is chosen by cross-validation over the exams of the training part only. Stored as LightGBM text.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble.logistic import LIMIT, expit
from pipeline.errors import UserError
from pipeline.files import write_text

#: The validation loss is evaluated every STRIDE rounds; training stops PATIENCE rounds after the best one.
STRIDE = 10
PATIENCE = 100
#: With more rows than this, one held-out part chooses the number of rounds as well as all of them.
MANY_ROWS = 100_000
#: Tables with more values than this are trained with several threads; on smaller ones threads mostly wait.
MANY_VALUES = 2_000_000
#: Training rows: table, 0/1 labels, the base model's logits, weights.
Rows = tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class TreeShape:
    """How trees are grown."""

    leaves: int
    min_data: int
    rate: float
    rounds: int
    features: int  # columns kept where ranks are given: the strongest on the training rows
    column_share: float
    inner_folds: int
    seed: int
    threads: int

    def parameters(self, values: int) -> dict[str, Any]:
        """LightGBM's parameters for a table with so many values; deterministic on one machine."""
        return {
            "objective": "binary", "metric": "binary_logloss", "boost_from_average": False,
            "num_leaves": self.leaves, "min_data_in_leaf": self.min_data, "min_sum_hessian_in_leaf": 1e-2,
            "learning_rate": self.rate, "feature_fraction": self.column_share, "lambda_l2": 5.0,
            "bagging_fraction": 0.8, "bagging_freq": 1, "max_bin": 63, "seed": self.seed,
            "deterministic": True, "force_row_wise": True, "verbosity": -1,
            "num_threads": self.threads if values > MANY_VALUES else 1,
        }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Trees:
    """A correction in logits: LightGBM's text and the columns it reads; without text the correction is 0."""

    columns: tuple[str, ...] = ()
    text: str = ""
    rounds: int = 0

    def correction(self, table: pd.DataFrame) -> np.ndarray:
        """(rows,) the value to add to the base model's logit."""
        if not self.text:
            return np.zeros(len(table))
        import lightgbm

        booster = lightgbm.Booster(model_str=self.text)
        # A column that is not in the table, such as one that was not measured here, is missing in every row.
        values = table.reindex(columns=list(self.columns)).to_numpy(np.float32)
        return np.asarray(booster.predict(values, raw_score=True))

    def save(self, path: Path) -> dict[str, Any]:
        """Write the text to `path`, if there is any; return the JSON value that `load` needs."""
        if self.text:
            write_text(path, self.text)
        digest = hashlib.sha256(self.text.encode()).hexdigest() if self.text else ""
        return {"columns": list(self.columns), "rounds": self.rounds, "file": path.name, "sha256": digest}

    @classmethod
    def load(cls, folder: Path, value: dict[str, Any]) -> "Trees":
        """Read what `save` wrote. LightGBM crashes on a damaged text, so the digest is checked first.

        Raises:
            UserError: the file is missing or damaged.
        """
        if not value["sha256"]:
            return cls()
        path = folder / value["file"]
        data = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(data).hexdigest() != value["sha256"]:
            raise UserError(
                f"Missing or changed since it was written: {path}. Rebuild it: ./run.sh --from ensemble --force"
            )
        return cls(tuple(value["columns"]), data.decode(), value["rounds"])


def fit_trees(
    table: pd.DataFrame,
    y: np.ndarray,
    base: np.ndarray,
    shape: TreeShape,
    *,
    exams: np.ndarray,
    weight: np.ndarray | None = None,
    ranks: np.ndarray | None = None,
) -> Trees:
    """Fit trees to the residual of a base model.

    Args:
        table: (n rows) features.
        y: (n,) 0/1.
        base: (n,) the base model's logit.
        shape: how the trees are grown.
        exams: (n,) exam of each row; inner folds never split one.
        weight: (n,) weights, scaled to mean 1 (LightGBM's minimum hessian is absolute).
        ranks: (n, columns) from `ranks_of`, to keep the `shape.features` strongest columns; None keeps all.

    Returns:
        The trees; empty where zero rounds had the lowest cross-validated loss.
    """
    weight = np.ones(len(y)) if weight is None else weight / weight.mean()

    def select_columns(rows: np.ndarray) -> list[str]:
        if ranks is None:
            return list(table.columns)
        return strongest(table.columns, ranks[rows], (y - expit(base))[rows], weight[rows], shape.features)

    rounds = choose_rounds(table, y, base, weight, exams, shape, select_columns)
    if rounds == 0:
        return Trees()
    columns = select_columns(np.ones(len(y), bool))
    import lightgbm

    data = _dataset((table[columns], y, base, weight), shape)
    booster = lightgbm.train(data.params, data, num_boost_round=rounds)
    return Trees(tuple(columns), booster.model_to_string(num_iteration=rounds), rounds)


def choose_rounds(
    table: pd.DataFrame,
    y: np.ndarray,
    base: np.ndarray,
    weight: np.ndarray,
    exams: np.ndarray,
    shape: TreeShape,
    select_columns: Callable[[np.ndarray], list[str]],
) -> int:
    """The number of rounds with the lowest cross-validated loss, a multiple of STRIDE; 0 where trees never help.

    Args:
        table: (n rows) features.
        y: (n,) 0/1.
        base: (n,) the base model's logit.
        weight: (n,) weights of mean 1.
        exams: (n,) exam of each row.
        shape: how the trees are grown.
        select_columns: boolean mask (n,) of the training rows -> the columns to use.
    """
    steps = shape.rounds // STRIDE
    if steps == 0:
        return 0
    fold = inner_folds(y, exams, shape.inner_folds, shape.seed)
    boosters, base_loss = [], 0.0
    for number in range(shape.inner_folds if len(y) <= MANY_ROWS else 1):
        held_out = fold == number
        if not held_out.any() or len(np.unique(y[~held_out])) < 2:
            continue
        columns = select_columns(~held_out)
        training, validation = (
            (table.loc[rows, columns], y[rows], base[rows], weight[rows]) for rows in (~held_out, held_out)
        )
        boosters.append(_ValidatedBooster(training, validation, shape))
        base_loss += log_loss(y[held_out], base[held_out], weight[held_out])
    loss = [base_loss]
    while boosters and len(loss) <= steps and len(loss) - 1 - int(np.argmin(loss)) < PATIENCE // STRIDE:
        loss.append(sum(booster.grow(STRIDE) for booster in boosters))
    return int(np.argmin(loss)) * STRIDE


class _ValidatedBooster:
    """A booster with the loss on validation rows, which it does not learn from."""

    def __init__(self, training: Rows, validation: Rows, shape: TreeShape) -> None:
        import lightgbm

        data = _dataset(training, shape)
        self.booster = lightgbm.Booster(data.params, data)
        self.booster.add_valid(_dataset(validation, shape, like=data), "validation")
        self.weight = float(validation[3].sum())

    def grow(self, rounds: int) -> float:
        """Add trees; return the sum of weighted cross-entropies on the validation rows."""
        for _ in range(rounds):
            self.booster.update()
        mean = self.booster.eval_valid()[0][2]
        return self.weight * mean


def inner_folds(y: np.ndarray, exams: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """Split whole exams into folds, stratified on whether the exam has a positive row.

    Args:
        y: (n,) 0/1.
        exams: (n,) exam of each row.
        folds: the number of folds.
        seed: of the random order.

    Returns:
        (n,) fold of each row.
    """
    names, owner = np.unique(exams, return_inverse=True)
    positive = np.bincount(owner, y, minlength=len(names)) > 0
    generator = np.random.default_rng(seed)
    rank = np.empty(len(names), np.int64)
    order = np.lexsort((generator.random(len(names)), positive))
    rank[order] = np.arange(len(names))
    return (rank % folds)[owner]


def ranks_of(table: pd.DataFrame) -> np.ndarray:
    """(n, columns) rank of every value in its column; missing values get the middle rank."""
    return table.rank().fillna(len(table) / 2).to_numpy(np.float32)


def strongest(
    columns: Iterable[str], ranks: np.ndarray, residual: np.ndarray, weight: np.ndarray, count: int
) -> list[str]:
    """The columns whose ranks correlate most with a residual, in the given order of columns.

    Args:
        columns: names of the columns of `ranks`.
        ranks: (n, columns) from `ranks_of`.
        residual: (n,) what the base model does not explain.
        weight: (n,) weights of the rows.
        count: how many columns to keep.
    """
    names = list(columns)
    if len(names) <= count:
        return names
    centred = ranks - np.average(ranks, axis=0, weights=weight)
    residual = residual - np.average(residual, weights=weight)
    spread = np.sqrt(np.average(centred**2, axis=0, weights=weight))
    correlation = np.abs((weight * residual) @ centred) / np.where(spread > 1e-6, spread, np.inf)
    return [names[number] for number in np.sort(np.argsort(-correlation, kind="stable")[:count])]


def _dataset(rows: Rows, shape: TreeShape, like: Any = None) -> Any:
    import lightgbm

    table, y, base, weight = rows
    return lightgbm.Dataset(
        table.to_numpy(np.float32), y, weight=weight, init_score=base, reference=like,
        feature_name=[f"f{number}" for number in range(table.shape[1])], params=shape.parameters(table.size),
    )  # fmt: skip


def log_loss(y: np.ndarray, decision: np.ndarray, weight: np.ndarray) -> float:
    """Sum of weighted cross-entropies of 0/1 labels and logits, each (n,)."""
    decision = np.clip(decision, -LIMIT, LIMIT)
    return float((weight * (np.logaddexp(0, decision) - y * decision)).sum())
