"""A finished run as later steps find it: its candidates, its identity, its known truth, and the names of its files."""

import dataclasses
from pathlib import Path

import pandas as pd

from ensemble.fit_ensemble import ensemble_artifact
from features.build_store import store_artifact
from features.store import store_table
from input.contest import SOP, STUDY
from input.tables import load_exams, load_slices
from models.apply_networks import require_networks
from pipeline import paths
from pipeline.artifact import Artifact, read_manifest, verify
from pipeline.errors import UserError
from pipeline.files import sha256
from pipeline.settings import Settings
from submissions.score import Truth, read_truth

#: The name of this stage's product.
PRODUCT = "submissions/write"
#: The file that is meant for the contest: the promoted candidate's.
SUBMISSION = "submission.csv"
FORMAT_VERSION = 4  # 3: the manifest holds the run's settings; 4: without evidence.html


@dataclasses.dataclass(frozen=True)
class Candidates:
    """What the ensemble offers: names in its own order, the promoted one, and where the tables lie."""

    directory: Path
    names: tuple[str, ...]
    promoted: str
    identity: str

    def predictions(self, name: str, role: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Exams and slices of one candidate; role is `oof` or `test`. Only these rows are read."""
        wanted = [("candidate", "==", name), ("role", "==", role)]
        return tuple(
            pd.read_parquet(self.directory / table, filters=wanted).drop(columns=["candidate", "role"])
            for table in ("exams.parquet", "slices.parquet")
        )


def read_candidates(directory: Path) -> Candidates:
    """The finished ensemble's candidates, its files checked against their sha256 first."""
    manifest = read_manifest(directory)
    verify(directory, ["exams.parquet", "slices.parquet"])
    names = tuple(pd.read_parquet(directory / "exams.parquet", columns=["candidate"])["candidate"].unique())
    promoted = manifest["metrics"].get("promoted")
    if promoted not in names:
        raise UserError(
            f"{paths.shown(directory)}: the manifest promotes {promoted!r}, the tables hold {', '.join(names)}; "
            "rebuild it: ./run.sh --from ensemble --force"
        )
    return Candidates(directory, names, promoted, manifest["identity"])


def truth_path(settings: Settings) -> Path:
    """Where a phantom keeps the truth of its test exams; the real contest has none."""
    return settings.data_root / "truth" / "test_truth.csv"


def known_test_truth(settings: Settings) -> Truth | None:
    """The truth of the finished run's test exams; None where there is none.

    Without --data, which a finished run can be read without, the settings name the drawn contest: what an earlier
    run left there speaks of other exams.
    """
    if not truth_path(settings).is_file():
        return None
    truth, exams = read_truth(truth_path(settings)), load_exams()
    return truth if set(truth.exams[STUDY]) == set(exams.loc[exams["split"] == "test", STUDY]) else None


def trained_on_phantoms() -> bool:
    """Whether the contest behind the finished run was drawn: by that run, or earlier and given as a tree."""
    return "raw" in read_manifest(paths.prepared())["inputs"]


def require_finished(settings: Settings) -> None:
    """Make sure that store, networks and ensemble on disk were made with these settings and can be applied.

    Raises:
        UserError: what is missing or differs, and how to go on.
    """
    # The ensemble's identity names the networks that lie there, whatever settings trained them.
    require_networks(settings)
    for product in (store_artifact(settings), ensemble_artifact(settings)):
        reason = product.stale_reason()
        if reason:
            raise UserError(
                f"{product.name}: {reason}; this needs a finished run: ./run.sh, or give the --settings, --set "
                "and --data of the run that is finished"
            )


def submission_artifact(settings: Settings, candidates: Candidates) -> Artifact:
    """The product that `write_all` makes; its inputs are the ensemble, the tables and the test truth."""
    truth = truth_path(settings)
    return Artifact(
        paths.submissions(),
        PRODUCT,
        version=FORMAT_VERSION,
        settings={"submissions": dataclasses.asdict(settings.submissions), "is_phantom": trained_on_phantoms()},
        inputs={
            "ensemble": candidates.identity,
            "prepared": read_manifest(paths.prepared())["identity"],
            "test truth": sha256(truth)[:16] if truth.is_file() else "none",
        },
        files=(SUBMISSION, "report.md", "report.png", *(f"{name}.csv" for name in candidates.names)),
    )


def quarantined_slices() -> pd.DataFrame:
    """STUDY, SOP, quarantine of every slice that was unreadable, at its header or at its pixels."""
    columns = [STUDY, SOP, "quarantine"]
    tables = [load_slices()[columns]]
    stored = store_table(paths.store(), "slices", columns)
    tables += [] if stored is None else [stored]
    table = pd.concat(tables, ignore_index=True)
    return table[table["quarantine"].fillna("") != ""].drop_duplicates(SOP)
