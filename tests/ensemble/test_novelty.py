"""Novelty: exams unlike the training exams are beyond the limit, held-out training exams as often as stated."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from ensemble.fit_novelty import fit_novelty, measure_novelty, novelty_reason, read_distances, read_references
from ensemble.novelty import TYPICAL, fit_reference, summarise
from input.contest import SOP, STUDY
from pipeline import paths
from pipeline.files import sha256, write_json, write_table
from pipeline.settings import InputSettings, ModelsSettings, Settings

EXAMS, SLICES, WIDTH = 60, 8, 6


def embeddings(exams: int, seed: int, shift: float = 0.0) -> np.ndarray:
    """(exams * SLICES, WIDTH): exams differ from each other, and their slices too."""
    generator = np.random.default_rng(seed)
    mixing = np.random.default_rng(0).normal(size=(WIDTH, WIDTH))
    exam = generator.normal(size=(exams, 1, WIDTH)) + shift
    values = (exam + generator.normal(size=(exams, SLICES, WIDTH))) @ mixing
    return values.reshape(-1, WIDTH).astype(np.float16)


def owners(exams: int) -> np.ndarray:
    return np.repeat(np.arange(exams), SLICES)


def test_summaries_are_mean_and_spread_per_exam() -> None:
    values = np.array([[1.0, 2.0], [3.0, 2.0], [7.0, 0.0]])
    np.testing.assert_allclose(summarise(values, np.array([0, 0, 1]), 2), [[2, 2, 1, 0], [7, 0, 0, 0]])


def test_held_out_exams_are_within_the_limit_as_often_as_stated_and_others_beyond() -> None:
    reference, held_out = fit_reference(summarise(embeddings(400, 1), owners(400), 400))
    assert (held_out <= 1).mean() == pytest.approx(TYPICAL, abs=0.01)
    new = reference.distance(summarise(embeddings(400, 2), owners(400), 400))
    assert (new <= 1).mean() == pytest.approx(TYPICAL, abs=0.04)
    unlike = reference.distance(summarise(embeddings(50, 3, shift=4.0), owners(50), 50))
    assert (unlike > 1).mean() > 0.95


def test_a_reference_survives_constant_embeddings() -> None:
    values = np.concatenate([embeddings(EXAMS, 1), np.zeros((EXAMS * SLICES, 1), np.float16)], axis=1)
    reference, _ = fit_reference(summarise(values, owners(EXAMS), EXAMS))
    assert np.isfinite(reference.distance(summarise(values, owners(EXAMS), EXAMS))).all()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Networks of two folds with embeddings of held-out and test exams; their slices are stored in mixed order."""
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    for fold in range(2):
        studies = [f"train{fold}-{exam:03d}" for exam in range(EXAMS)] + [f"test{exam:03d}" for exam in range(20)]
        values = np.concatenate([embeddings(EXAMS, fold), embeddings(20, 9)])
        rows = np.random.default_rng(fold).permutation(len(values))
        table = pd.DataFrame({STUDY: np.repeat(studies, SLICES), SOP: [f"s{row}" for row in range(len(values))]})
        table["role"] = np.where(table[STUDY].str.startswith("train"), "oof", "test")
        table["row"] = np.argsort(rows)
        directory = paths.model_run("net", fold)
        write_table(directory / "slices.parquet", table)
        np.save(directory / "embeddings.npy", values[rows])
        files = {file.name: sha256(file) for file in directory.iterdir()}
        write_json(directory / "manifest.json", {"identity": f"net{fold}", "files": files})
    return Settings(input=InputSettings(folds=2), models=ModelsSettings(backbones=("net",)))


def test_a_runs_references_give_the_same_distances_as_its_table(
    run: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    fit_novelty(run)
    fit_novelty(run)
    assert "up to date" in capsys.readouterr().out
    distances = read_distances()
    assert len(distances) == 2 * EXAMS + 20
    assert np.mean([distance > 1 for study, distance in distances.items() if study < "train"]) <= 0.15
    names = np.repeat([f"test{exam:03d}" for exam in range(20)], SLICES)
    measured = measure_novelty(read_references(), dict.fromkeys(range(2), embeddings(20, 9)), names)
    assert measured == pytest.approx({study: distances[study] for study in measured})


def test_an_exam_beyond_the_limit_is_a_reason_for_caution() -> None:
    reason = novelty_reason(1.44)
    assert reason is not None and not reason.is_severe
    assert reason.text == "unlike the training exams: 1.4 times the limit of the distance"
    assert novelty_reason(1.0) is None
