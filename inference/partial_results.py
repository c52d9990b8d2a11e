"""Results of a `predict` command that is still running, study by study, so that a killed run resumes.

<out>.partial/                 beside the CSV, removed when the command has finished
    run.json                   what the results depend on; other results are discarded
    <study>.b2nd, .json        pixels of the study (features.store), for the evidence report
    <study>.case.json, .npz    its results (inference.evidence.stored_cases), written last
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.store import array_path
from inference.evidence.exam_cases import ExamCase
from inference.evidence.stored_cases import case_path, read_case, write_case
from input.safe_decoding import ExamJob
from pipeline import paths
from pipeline.errors import UserError
from pipeline.files import read_json, write_json

_RUN, _LOCK = "run.json", ".lock"


@dataclass(frozen=True)
class StudyResult:
    """The results of one study.

    Attributes:
        case: what the evidence report shows.
        series_uid: of the series that was used.
        text: what the command prints.
    """

    case: ExamCase
    series_uid: str
    text: str


class PartialResults:
    """The folder of a running command; see `partial_results`.

    Attributes:
        folder: also the pixel store of the studies.
        keeps_pixels: whether pixels are needed after a study is finished.
    """

    def __init__(self, folder: Path, *, keeps_pixels: bool) -> None:
        self.folder = folder
        self.keeps_pixels = keeps_pixels

    def finished(self, jobs: Iterable[ExamJob]) -> dict[str, StudyResult]:
        """The results of an earlier run: job name -> result, for studies whose files have not changed."""
        results = {}
        for job in jobs:
            if case_path(self.folder, job.name).is_file():
                case, facts = read_case(self.folder, job.name)
                if facts.pop("files") == _stamp(job.files):
                    results[job.name] = StudyResult(case, **facts)
        return results

    def add(self, result: StudyResult, job: ExamJob) -> None:
        """Keep a finished study."""
        facts = {"files": _stamp(job.files), "series_uid": result.series_uid, "text": result.text}
        write_case(self.folder, result.case, **facts)
        if not self.keeps_pixels:
            array_path(self.folder, job.name).unlink()

    def any_finished(self) -> bool:
        """Whether the folder has results that a later run can use."""
        return next(self.folder.glob("*.case.json"), None) is not None


@contextmanager
def partial_results(out: Path, depends_on: dict[str, Any], *, keeps_pixels: bool) -> Iterator[PartialResults]:
    """Open the folder of a command's results beside its output; remove it when the command succeeds.

    Args:
        out: the command's CSV.
        depends_on: JSON values; results with other values are discarded.
        keeps_pixels: whether pixels are needed after a study is finished.

    Raises:
        UserError: another command is writing the same output.
    """
    folder = out.with_name(f"{out.stem}.partial")
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another predict run writes {paths.shown(out)}. Wait for it to end, or give another --out."
            ) from error
        depends_on = depends_on | {"keeps_pixels": keeps_pixels}
        if not (folder / _RUN).is_file() or read_json(folder / _RUN) != depends_on:
            _empty(folder)
            write_json(folder / _RUN, depends_on)
        results = PartialResults(folder, keeps_pixels=keeps_pixels)
        finished = False
        try:
            yield results
            finished = True
        finally:
            if finished or not results.any_finished():
                shutil.rmtree(folder)


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        if path.name != _LOCK:
            path.unlink()


def _stamp(files: Iterable[Path]) -> str:
    """Digest of the files' paths, sizes and times; members of an archive have those of the archive."""
    digest = hashlib.sha256()
    for path in files:
        status = next(candidate for candidate in (path, *path.parents) if candidate.exists()).stat()
        digest.update(b"%s\0%d\0%d\0" % (os.fsencode(path), status.st_size, status.st_mtime_ns))
    return digest.hexdigest()
