"""The commands `experiments` and `clean`: all experiments with their scores and sizes, and artifacts that none uses."""

import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from models.network_names import network_names
from pipeline import paths
from pipeline.artifact import read_manifest
from pipeline.console import say
from pipeline.errors import UserError
from pipeline.estimates import format_bytes
from pipeline.experiments import SETTINGS, DamagedSettingsError, names, recorded_settings
from pipeline.file_lock import locked
from pipeline.settings import Settings
from pipeline.shared_artifacts import is_finished, size_on_disk, unused_artifacts, used_by
from pipeline.stage_plan import MANIFEST
from submissions.leaderboard import leaderboard_path, read_leaderboard
from submissions.text_table import legend, text_table

#: Title of a column -> its meaning.
LEGEND = {
    "CV": "metric of the promoted candidate's out-of-fold predictions with its 95 % interval, lower is better",
    "test": "the same of its submission on the test truth, where it is known",
    "size": "of the results and of all artifacts that the experiment uses",
    "own": "of these, what no other experiment uses",
}


def experiments_table() -> str:
    """All experiments as text, oldest first."""
    experiments = names()
    if not experiments:
        return f"{paths.shown(paths.experiments())}: no experiments yet. Run one: ./run.sh"
    used = {name: used_by(name) for name in experiments}
    sizes = {folder: size_on_disk(folder) for folder in set().union(*used.values())}
    board = read_leaderboard(leaderboard_path())
    rows = []
    for name in experiments:
        others = set().union(*(used[other] for other in experiments if other != name))
        results = size_on_disk(paths.experiments() / name)
        size, own = (
            format_bytes(results + sum(sizes[folder] for folder in folders))
            for folders in (used[name], used[name] - others)
        )
        rows.append([name, *_facts(name, board), size, own, progress_of(name)])
    header = ["experiment", "date", "data", "promoted", "CV", "test", "size", "own", "state"]
    return f"{text_table(header, rows, left=4)}\n\n{legend(LEGEND)}"


def _facts(name: str, board: pd.DataFrame) -> list[str]:
    """Date, data, promoted candidate, CV with interval, and test score of an experiment."""
    folder = paths.experiments() / name
    started = datetime.fromtimestamp((folder / SETTINGS).stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M")
    row = _promoted_row(folder, board)
    if row is None:
        return [started, "-", "-", "-", "-"]
    cv = f"{row['cv']:.4f} ({row['cv_low']:.3f}-{row['cv_high']:.3f})"
    return [row["when"], row["data"], row["candidate"], cv, "-" if pd.isna(row["test"]) else f"{row['test']:.4f}"]


def _promoted_row(folder: Path, board: pd.DataFrame) -> dict[str, Any] | None:
    """The leaderboard's row of an experiment's promoted candidate."""
    if not (folder / MANIFEST).is_file():
        return None
    rows = board[board["run"] == read_manifest(folder)["identity"]]
    rows = rows[rows["promoted"].astype(str).str.lower() == "true"]
    return None if rows.empty else rows.iloc[0].to_dict()


def progress_of(name: str) -> str:
    """ "complete", or the first stage of an experiment that is not finished."""
    try:
        settings = recorded_settings(name)
    except DamagedSettingsError:
        return "settings damaged"
    except UserError:
        return "of another version"
    folder = paths.experiments() / name
    links = folder / paths.LINKS
    if not is_finished(links / "prepared"):
        return "no tables"
    if not all(is_finished(links / artifact) for artifact in ("store", "acceptance", "masks")):
        return "no store"
    done, planned = _networks(links, settings)
    if done < planned:
        return f"{done} of {planned} networks"
    if not is_finished(links / "ensemble"):
        return "no ensemble"
    if not is_finished(folder):
        return "no submission"
    return "complete" if is_finished(folder / "evidence") else "no evidence report"


def _networks(links: Path, settings: Settings) -> tuple[int, int]:
    """Numbers of finished and of planned networks."""
    runs = [
        links / "models" / network / f"fold{fold}"
        for network in network_names(settings.models)
        for fold in range(settings.input.folds)
    ]
    return sum(map(is_finished, runs)), len(runs)


def clean(*, really: bool) -> None:
    """Print the artifacts that no experiment uses; delete them if `really`.

    Raises:
        UserError: a run is active.
    """
    with locked(paths.logs() / ".running", wait=False) as is_free:
        if not is_free:
            raise UserError(f"A run is using {paths.root()}. Wait for it to end.")
        folders = unused_artifacts()
        sizes = [size_on_disk(folder) for folder in folders]
        for folder, size in zip(folders, sizes, strict=True):
            state = "" if is_finished(folder) else ", not finished"
            say(f"{format_bytes(size):>8}  {folder.relative_to(paths.root())}{state}")
            if really:
                (folder / MANIFEST).unlink(missing_ok=True)
                folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
        total = f"{len(folders)} artifacts that no experiment uses, {format_bytes(sum(sizes))}"
        if not folders:
            say(f"{paths.shown(paths.artifacts())}: every artifact is used by an experiment")
        else:
            say(f"{total}: {'deleted' if really else 'delete them with ./run.sh clean --yes'}")
