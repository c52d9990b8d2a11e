"""A contest tree without labels becomes a complete submission, group by group, and a killed run resumes."""

import fcntl
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from features.acceptance_rules import Reason, accept
from inference import predict_contest as module
from inference.predict_contest import TIME_LIMIT_REACHED, predict_contest
from inference.predicted_studies import SYNTHETIC_WARNING
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
PRIOR, PREDICTED = 0.25, 0.125


@pytest.fixture(autouse=True)
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read headers in this process: starting workers takes longer than all of these tests."""
    monkeypatch.setattr("pipeline.jobs.cores", lambda: 1)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Five exams of three slices: one file is missing in the second, all in the third, one is broken in the fourth."""
    rows = []
    for exam in range(5):
        for position in range(3):
            ids = {STUDY: f"{exam:012x}", SERIES: f"a{exam:011x}", SOP: f"b{exam:08x}{position:03x}"}
            rows.append(ids)
            path = tmp_path / "contest" / "test" / ids[STUDY] / ids[SERIES] / f"{ids[SOP]}.dcm"
            if exam != 2 and (exam, position) != (1, 1):
                tags = {"StudyInstanceUID": ids[STUDY], "SeriesInstanceUID": ids[SERIES], "SOPInstanceUID": ids[SOP]}
                write_slice(path, z=-5.0 * position, **tags)
            if (exam, position) == (3, 0):
                path.write_bytes(path.read_bytes()[:300])
    pd.DataFrame(rows).to_csv(tmp_path / "contest" / "test.csv", index=False)
    return tmp_path / "contest"


@pytest.fixture
def ensemble(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Fake a finished ensemble: PREDICTED for readable slices, else PRIOR. Returns the groups that were stored."""
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    groups: list[list[str]] = []

    def fake_apply(networks: object, slices: pd.DataFrame, **_: object) -> tuple[pd.DataFrame, pd.DataFrame]:
        readable = slices["quarantine"].eq("").to_numpy() if "quarantine" in slices else np.zeros(len(slices), bool)
        exams = pd.DataFrame({STUDY: slices[STUDY].unique(), **dict.fromkeys(EXAM_LABELS, PRIOR)})
        exams[NEGATIVE] = 0.75
        return exams, slices[[STUDY, SOP]].assign(label=np.where(readable, PREDICTED, PRIOR))

    def fake_store(slices: pd.DataFrame, tree: Path, directory: Path, settings: object) -> None:
        groups.append(list(slices[STUDY].unique()))
        slices.to_parquet(directory / "slices.parquet")
        slices[[STUDY]].drop_duplicates().to_parquet(directory / "exams.parquet")

    monkeypatch.setattr(module, "require_finished", lambda settings: None)
    monkeypatch.setattr(module, "trained_on_phantoms", lambda: True)
    monkeypatch.setattr(module, "read_manifest", lambda folder: {"identity": "finished"})
    monkeypatch.setattr(module, "store_exams", fake_store)
    monkeypatch.setattr(module, "training_step_mm", lambda: 5.3)
    monkeypatch.setattr(module, "apply", fake_apply)
    return groups


def test_headers_give_order_and_reasons_for_every_row_of_test_csv(tree: Path) -> None:
    table = slice_rows(tree, read_test_table(tree))
    assert table[SOP].tolist() == read_test_table(tree)[SOP].tolist()
    assert table["position"].tolist() == [2, 1, 0, 1, -1, 0, -1, -1, -1, -1, 1, 0, 2, 1, 0]
    assert table["z_mm"].tolist()[:3] == [0.0, -5.0, -10.0]
    assert table["quarantine"].eq("").tolist() == [p >= 0 for p in table["position"]]
    assert table["path"].iat[0] == f"test/{0:012x}/a{0:011x}/b{0:08x}000.dcm"


def test_the_submission_is_complete_and_unreadable_slices_have_the_prior(
    tree: Path, tmp_path: Path, ensemble: list, capsys: pytest.CaptureFixture[str]
) -> None:
    predict_contest(Settings(), tree, tmp_path / "out.csv", group_size=2)
    layout = read_layout(tree)
    assert check_file(tmp_path / "out.csv", layout) == []
    labels = pd.read_csv(tmp_path / "out.csv").set_index("id")["label"]
    unread = pd.read_csv(tmp_path / "out_unread.csv", dtype=str)
    assert set(unread[SOP]) == {f"b{e:08x}{p:03x}" for e, p in ((1, 1), (2, 0), (2, 1), (2, 2), (3, 0))}
    assert (labels[unread[SOP]] == PRIOR).all()
    assert (labels[layout.slices[SOP]] == PREDICTED).sum() == 10
    assert [len(group) for group in ensemble] == [2, 2, 1]
    assert not (paths.inference() / "predicted" / ".store").exists()
    shown = capsys.readouterr().out
    assert "5 slices have the prior" in shown and shown.rstrip().endswith(SYNTHETIC_WARNING)


def test_a_killed_run_resumes_and_gives_the_same_bytes(
    tree: Path, tmp_path: Path, ensemble: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict_contest(Settings(), tree, tmp_path / "whole.csv", group_size=2, force=True)
    uninterrupted = module.store_exams

    def killed(slices: pd.DataFrame, *arguments: object) -> None:
        if f"{2:012x}" in set(slices[STUDY]):
            raise KeyboardInterrupt
        uninterrupted(slices, *arguments)

    monkeypatch.setattr(module, "store_exams", killed)
    with pytest.raises(KeyboardInterrupt):
        predict_contest(Settings(), tree, tmp_path / "again.csv", group_size=2, force=True)
    monkeypatch.setattr(module, "store_exams", uninterrupted)
    ensemble.clear()
    predict_contest(Settings(), tree, tmp_path / "again.csv", group_size=2)
    assert [group[0] for group in ensemble] == [f"{2:012x}", f"{4:012x}"]
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_a_second_run_reads_no_exam_and_detects_a_changed_group(tree: Path, tmp_path: Path, ensemble: list) -> None:
    predict_contest(Settings(), tree, tmp_path / "out.csv", group_size=2)
    ensemble.clear()
    predict_contest(Settings(), tree, tmp_path / "again.csv", group_size=2)
    assert ensemble == [] and (tmp_path / "again.csv").read_bytes() == (tmp_path / "out.csv").read_bytes()
    with (paths.inference() / "predicted" / "slices000002.parquet").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="sha256 differs") as fault:
        predict_contest(Settings(), tree, tmp_path / "again.csv", group_size=2)
    assert f"./run.sh predict-contest {tree} --out {tmp_path / 'again.csv'} --force" in str(fault.value)
    assert "--from submissions" not in str(fault.value)


def test_at_the_time_limit_the_file_is_valid_and_a_later_run_completes_it(
    tree: Path, tmp_path: Path, ensemble: list
) -> None:
    predict_contest(Settings(), tree, tmp_path / "out.csv", group_size=2, hours=1e-9)
    assert ensemble == [] and check_file(tmp_path / "out.csv", read_layout(tree)) == []
    assert set(pd.read_csv(tmp_path / "out_unread.csv")["quarantine"]) == {TIME_LIMIT_REACHED}
    predict_contest(Settings(), tree, tmp_path / "out.csv", group_size=2)
    assert len(pd.read_csv(tmp_path / "out_unread.csv")) == 5


def test_a_concurrent_run_is_rejected_and_changes_nothing(tree: Path, tmp_path: Path, ensemble: list) -> None:
    predict_contest(Settings(), tree, tmp_path / "out.csv", group_size=2)
    groups = sorted((paths.inference() / "predicted").iterdir())
    ensemble.clear()
    with (paths.logs() / ".predicting").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another predict-contest run is active"):
            predict_contest(Settings(), tree, tmp_path / "again.csv", group_size=2, force=True)
    assert ensemble == [] and not (tmp_path / "again.csv").exists()
    assert sorted((paths.inference() / "predicted").iterdir()) == groups
    predict_contest(Settings(), tree, tmp_path / "again.csv", group_size=2, force=True)
    assert len(ensemble) == 3


def test_faults_of_test_csv_are_reported_before_any_work(tree: Path, ensemble: list, tmp_path: Path) -> None:
    table = pd.read_csv(tree / "test.csv", dtype=str)
    table.assign(**{STUDY: "../escape"}).to_csv(tree / "test.csv", index=False)
    with pytest.raises(UserError, match="invalid StudyInstanceUID"):
        predict_contest(Settings(), tree, tmp_path / "out.csv")
    (tree / "test.csv").unlink()
    with pytest.raises(UserError, match="test.csv"):
        predict_contest(Settings(), tree, tmp_path / "out.csv")


def test_an_exam_that_is_not_assessable_has_the_prior_and_a_reason(
    tree: Path, tmp_path: Path, ensemble: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = accept((Reason("lungs", "no lungs found", True),))
    networks = {0: {"net": pd.DataFrame({STUDY: [f"{exam:012x}" for exam in range(5)], SOP: "x", "pe": 0.5})}}
    seen = []
    applied = module.apply

    def watched_apply(networks: dict, slices: pd.DataFrame, **arguments: object) -> tuple:
        seen.extend(networks[0]["net"][STUDY])
        return applied(networks, slices, **arguments)

    monkeypatch.setattr(module, "apply", watched_apply)
    monkeypatch.setattr(module, "_no_predictions", lambda settings: networks)
    monkeypatch.setattr(module, "judged", lambda table, step_mm: {f"{4:012x}": refused})
    predict_contest(Settings(), tree, tmp_path / "out.csv", group_size=5)
    assert seen == [f"{exam:012x}" for exam in range(4)]
    unread = pd.read_csv(tmp_path / "out_unread.csv", dtype=str).set_index(STUDY)["quarantine"]
    assert unread[f"{4:012x}"].tolist() == ["not assessable: no lungs found"] * 3
    assert check_file(tmp_path / "out.csv", read_layout(tree)) == []
