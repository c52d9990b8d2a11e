"""A contest tree without labels becomes a whole submission, group by group, and goes on after a kill."""

import fcntl
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from inference import predict_contest as module
from inference.predict_contest import NO_TIME, predict_contest
from inference.predicted_studies import WARNING
from input.contest import EXAM_LABELS, NEGATIVE, SERIES, SOP, STUDY
from input.contest_tree import read_test_table
from input.unlabelled_exams import slice_rows
from pipeline import paths
from pipeline.errors import UserError
from pipeline.settings import Settings
from submissions.check_submission import check_file
from submissions.kaggle_csv import read_layout
from tests.support.dicom_files import write_slice

pytestmark = pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
PRIOR, SEEN = 0.25, 0.125


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Headers are read here: starting workers would cost more than all of these tests."""
    monkeypatch.setattr("pipeline.jobs.cores", lambda: 1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five exams of three slices; the second lacks a file, the third has none, the fourth a broken one."""
    rows = []
    for exam in range(5):
        for place in range(3):
            ids = {STUDY: f"{exam:012x}", SERIES: f"a{exam:011x}", SOP: f"b{exam:08x}{place:03x}"}
            rows.append(ids)
            path = tmp_path / "contest" / "test" / ids[STUDY] / ids[SERIES] / f"{ids[SOP]}.dcm"
            if exam != 2 and (exam, place) != (1, 1):
                tags = {"StudyInstanceUID": ids[STUDY], "SeriesInstanceUID": ids[SERIES], "SOPInstanceUID": ids[SOP]}
                write_slice(path, z=-5.0 * place, **tags)
            if (exam, place) == (3, 0):
                path.write_bytes(path.read_bytes()[:300])
    pd.DataFrame(rows).to_csv(tmp_path / "contest" / "test.csv", index=False)
    return tmp_path / "contest"


@pytest.fixture
def ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A finished ensemble that says SEEN of every readable slice and PRIOR otherwise; the groups that it was given."""
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "products"))
    groups: list[list[str]] = []

    def answer(networks: object, slices: pd.DataFrame, **_: object) -> tuple[pd.DataFrame, pd.DataFrame]:
        seen = slices["quarantine"].eq("").to_numpy() if "quarantine" in slices else np.zeros(len(slices), bool)
        exams = pd.DataFrame({STUDY: slices[STUDY].unique(), **dict.fromkeys(EXAM_LABELS, PRIOR)})
        exams[NEGATIVE] = 0.75
        return exams, slices[[STUDY, SOP]].assign(label=np.where(seen, SEEN, PRIOR))

    def store(slices: pd.DataFrame, data: Path, directory: Path, settings: object) -> None:
        groups.append(list(slices[STUDY].unique()))
        slices.to_parquet(directory / "slices.parquet")
        slices[[STUDY]].drop_duplicates().to_parquet(directory / "exams.parquet")

    monkeypatch.setattr(module, "require_finished", lambda settings: None)
    monkeypatch.setattr(module, "trained_on_phantoms", lambda: True)
    monkeypatch.setattr(module, "read_manifest", lambda folder: {"identity": "finished"})
    monkeypatch.setattr(module, "store_exams", store)
    monkeypatch.setattr(module, "apply", answer)
    return groups


def test_headers_give_order_and_reasons_for_every_row_of_test_csv(tree: Path) -> None:
    table = slice_rows(tree, read_test_table(tree))
    assert table[SOP].tolist() == read_test_table(tree)[SOP].tolist()
    assert table["position"].tolist() == [2, 1, 0, 1, -1, 0, -1, -1, -1, -1, 1, 0, 2, 1, 0]
    assert table["z_mm"].tolist()[:3] == [0.0, -5.0, -10.0]
    assert table["quarantine"].eq("").tolist() == [p >= 0 for p in table["position"]]
    assert table["path"].iat[0] == f"test/{0:012x}/a{0:011x}/b{0:08x}000.dcm"


def test_every_row_is_there_and_the_unreadable_have_the_prior(
    tree: Path, tmp_path: Path, ensemble: list, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_contest(Settings(), tree, tmp_path / "out.csv", at_once=2)
    layout = read_layout(tree)
    assert check_file(tmp_path / "out.csv", layout) == []
    labels = pd.read_csv(tmp_path / "out.csv").set_index("id")["label"]
    unread = pd.read_csv(tmp_path / "out_unread.csv", dtype=str)
    assert set(unread[SOP]) == {f"b{e:08x}{p:03x}" for e, p in ((1, 1), (2, 0), (2, 1), (2, 2), (3, 0))}
    assert (labels[unread[SOP]] == PRIOR).all()
    assert (labels[layout.slices[SOP]] == SEEN).sum() == 10
    assert [len(group) for group in ensemble] == [2, 2, 1]
    assert not (tmp_path / "products" / "submissions" / "predicted" / ".store").exists()
    shown = capsys.readouterr().out
    assert "5 slices have the stated prior" in shown and shown.rstrip().endswith(WARNING)


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tree: Path, tmp_path: Path, ensemble: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_contest(Settings(), tree, tmp_path / "whole.csv", at_once=2, force=True)
    working = module.store_exams

    def killed(slices: pd.DataFrame, *others: object) -> None:
        if f"{2:012x}" in set(slices[STUDY]):
            raise KeyboardInterrupt
        working(slices, *others)

    monkeypatch.setattr(module, "store_exams", killed)
    with pytest.raises(KeyboardInterrupt):
        predict_contest(Settings(), tree, tmp_path / "again.csv", at_once=2, force=True)
    monkeypatch.setattr(module, "store_exams", working)
    ensemble.clear()
    predict_contest(Settings(), tree, tmp_path / "again.csv", at_once=2)
    assert [group[0] for group in ensemble] == [f"{2:012x}", f"{4:012x}"]
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_second_run_reads_no_exam_and_a_changed_group_is_noticed(tree: Path, tmp_path: Path, ensemble: list) -> None:
    predict_contest(Settings(), tree, tmp_path / "out.csv", at_once=2)
    ensemble.clear()
    predict_contest(Settings(), tree, tmp_path / "again.csv", at_once=2)
    assert ensemble == [] and (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    with (tmp_path / "products" / "submissions" / "predicted" / "slices000002.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="sha256 differs") as fault:
        predict_contest(Settings(), tree, tmp_path / "again.csv", at_once=2)
    assert f"./run.sh predict {tree} --submission {tmp_path / 'again.csv'} --force" in str(fault.value)
    assert "--from submissions" not in str(fault.value)


def test_when_the_time_is_up_the_file_is_valid_and_a_later_run_does_the_rest(
    tree: Path, tmp_path: Path, ensemble: list
) -> None:
    predict_contest(Settings(), tree, tmp_path / "out.csv", at_once=2, hours=1e-9)
    assert ensemble == [] and check_file(tmp_path / "out.csv", read_layout(tree)) == []
    assert set(pd.read_csv(tmp_path / "out_unread.csv")["quarantine"]) == {NO_TIME}
    predict_contest(Settings(), tree, tmp_path / "out.csv", at_once=2)
    assert len(pd.read_csv(tmp_path / "out_unread.csv")) == 5


def test_a_second_run_at_the_same_time_says_so_and_touches_nothing(tree: Path, tmp_path: Path, ensemble: list) -> None:
    predict_contest(Settings(), tree, tmp_path / "out.csv", at_once=2)
    groups = sorted((tmp_path / "products" / "submissions" / "predicted").iterdir())
    ensemble.clear()
    with (paths.logs() / ".predicting").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another predict --submission works there"):
            predict_contest(Settings(), tree, tmp_path / "again.csv", at_once=2, force=True)
    assert ensemble == [] and not (tmp_path / "again.csv").exists()
    assert sorted((tmp_path / "products" / "submissions" / "predicted").iterdir()) == groups
    predict_contest(Settings(), tree, tmp_path / "again.csv", at_once=2, force=True)
    assert len(ensemble) == 3


def test_faults_of_test_csv_are_named_before_any_work(tree: Path, ensemble: list, tmp_path: Path) -> None:
    table = pd.read_csv(tree / "test.csv", dtype=str)
    table.assign(**{STUDY: "../escape"}).to_csv(tree / "test.csv", index=False)
    with pytest.raises(UserError, match="impossible StudyInstanceUID"):
        predict_contest(Settings(), tree, tmp_path / "out.csv")
    (tree / "test.csv").unlink()
    with pytest.raises(UserError, match="test.csv"):
        predict_contest(Settings(), tree, tmp_path / "out.csv")
