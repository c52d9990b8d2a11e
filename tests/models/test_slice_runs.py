"""(backbone, fold) jobs on a data set of eight exams: their artifacts, and what makes them run again."""

import dataclasses
import shutil

import numpy as np
import pandas as pd
import pytest

from features.clot_masks import COLUMNS
from features.lung_box import Box
from features.store import write_exam
from input.contest import EXAM_LABELS, QA_LABELS, SLICE_LABEL, SOP, STUDY
from models import slice_runs as runs
from models.device import onednn_is_limited
from models.history import History
from models.network_artifacts import job_artifacts, network_artifact
from pipeline import paths
from pipeline.artifact import read_manifest
from pipeline.files import sha256, write_json
from pipeline.settings import ExamNetworkSettings, InputSettings, ModelsSettings, Settings
from tests.support.eager_steps import run_eagerly

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

SETTINGS = Settings(
    input=InputSettings(folds=2),
    models=ModelsSettings(
        backbones=("tiny",), weights="none", engine="keras", height=32, width=32, embedding=8, epochs=2,
        epoch_slices=8, batch=8, exam=ExamNetworkSettings(kinds=("gru",), length=8, units=4, epochs=1, batch=4),
    ),
)  # fmt: skip


def _write_manifest(folder):
    write_json(
        folder / "manifest.json",
        {"identity": folder.name, "files": {file.name: sha256(file) for file in folder.iterdir()}},
    )


@pytest.fixture
def networks(monkeypatch):
    """Networks that train quickly."""
    import keras

    from models.backbones import BACKBONES, Backbone
    from models.exam_forward import STATES
    from models.exam_network import BUILDERS

    run_eagerly(monkeypatch)
    # The real function may run only once per process, before the first operation.
    monkeypatch.setattr(runs, "prepare_backend", lambda recipe, threads: keras.utils.set_random_seed(recipe.seed))
    graph = lambda images: keras.layers.ReLU()(keras.layers.Conv2D(8, 5, 4)(images))  # noqa: E731
    monkeypatch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))
    monkeypatch.setitem(BUILDERS, "gru", lambda tensor, inside, settings: tensor)  # a real GRU takes seconds to compile
    monkeypatch.setitem(STATES, "gru", lambda weights: lambda tensor, inside: tensor)


@pytest.fixture
def contest(tmp_path, monkeypatch, networks):
    """A contest under PE_ROOT."""
    monkeypatch.setenv("PE_ROOT", str(tmp_path))
    write_contest()


def write_contest():
    """Prepare and store six training and two test exams of 6 planes."""
    studies = [f"exam{number}" for number in range(8)]
    exams = pd.DataFrame({STUDY: studies, "split": ["train"] * 6 + ["test"] * 2, "fold": [0, 1] * 3 + [-1] * 2})
    positive = np.array([1.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 1.0])
    for label in (*EXAM_LABELS, *QA_LABELS):
        exams[label] = positive
    random = np.random.default_rng(0)
    parts = []
    for study, label in zip(studies, positive, strict=True):
        sops = tuple(f"{study}-{plane}" for plane in range(6))
        write_exam(
            paths.store(), study, "series", random.integers(-200, 400, (6, 24, 24)).astype(np.int16),
            z_mm=np.arange(6) * 5.0, spacing_mm=(2.0, 2.0), raw_spacing_mm=(1.0, 1.0), sop_uids=sops,
            box=Box(y0=0, y1=48, x0=0, x1=48, z0=0, z1=6, middle_x=24.0, found=True),
        )  # fmt: skip
        parts.append(pd.DataFrame({STUDY: study, SOP: sops, SLICE_LABEL: label * np.array([0, 0, 1, 1, 0, 0])}))
    paths.prepared().mkdir(parents=True)
    exams.to_parquet(paths.prepared() / "exams.parquet", index=False)
    pd.concat(parts).to_parquet(paths.prepared() / "slices.parquet", index=False)
    _write_manifest(paths.prepared())
    _write_manifest(paths.store())
    paths.masks().mkdir()
    pd.DataFrame(columns=list(COLUMNS)).to_parquet(paths.masks() / "slices.parquet", index=False)
    _write_manifest(paths.masks())


@pytest.fixture(scope="module")
def finished_jobs():
    """The summary and the root of the finished job that tests copy."""
    return []


@pytest.fixture
def job(networks, finished_jobs, tmp_path, tmp_path_factory, monkeypatch):
    """A finished job on the contest, with its artifacts under PE_ROOT; returns its summary."""
    if not finished_jobs:
        root = tmp_path_factory.mktemp("job")
        monkeypatch.setenv("PE_ROOT", str(root))
        write_contest()
        finished_jobs.append((train(), root))
    summary, root = finished_jobs[0]
    shutil.copytree(root, tmp_path / "root", symlinks=True)
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    return summary


def train(settings=SETTINGS, threads=1, *, force=False):
    """Run one job, slice network and exam networks, in this process; return its summary."""
    from models.exam_runs import train_exam_networks

    summary = runs.train_fold(settings, "tiny", 0, threads, force=force)
    return summary + train_exam_networks(settings, "tiny", 0, threads, force=force)


def with_models(**changes):
    return dataclasses.replace(SETTINGS, models=dataclasses.replace(SETTINGS.models, **changes))


def test_a_finished_job_is_not_repeated(job):
    assert len(job) == 2 and "loss" in job[0] and job[1].startswith("gru loss")
    assert train() == []


def test_folds_with_a_frozen_stem_predict_the_same_alone_and_after_another_fold(contest, monkeypatch):
    """The second fold of a process reads the stem's features of the test slices from the first."""
    from keras import layers

    from models import frozen_stem
    from models.backbones import BACKBONES, Backbone
    from models.batch_normalization import NormalisedConvolution
    from models.training_run import STARTED

    def graph(images):
        for stride in (4, 2, 2, 2):
            convolution = layers.Conv2D(8, 3, stride, "same", use_bias=False)
            images = layers.ReLU()(NormalisedConvolution(convolution, momentum=0.9, epsilon=1e-3)(images))
        return images

    passes, call = [], frozen_stem.RememberedFeatures.__call__
    monkeypatch.setattr(
        frozen_stem.RememberedFeatures, "__call__",
        lambda features, images: passes.append(features._next < len(features._batches)) or call(features, images),
    )  # fmt: skip
    monkeypatch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))
    settings = with_models(engine="openvino", frozen_share=0.4, flip_tta=True)
    table = paths.model_run("tiny", 1) / "slices.parquet"
    STARTED.clear()
    runs.train_fold(settings, "tiny", 0, 1)
    runs.train_fold(settings, "tiny", 1, 1)
    second = table.read_bytes()
    assert passes == [False, False, True, True], "two passes, one of them mirrored, in each fold"
    STARTED.clear()
    runs.train_fold(settings, "tiny", 1, 1, force=True)
    assert table.read_bytes() == second


@pytest.mark.skipif(onednn_is_limited(), reason="ONEDNN_MAX_CPU_ISA rules out bfloat16 and float16")
def test_manifests_record_backend_and_precision(contest):
    import keras

    train(with_models(precision="mixed_bfloat16"))
    manifests = [read_manifest(paths.model_run(name, 0)) for name in ("tiny", "tiny_gru")]
    assert [manifest["precision"] for manifest in manifests] == ["mixed_bfloat16", "float32"]
    assert {manifest["backend"] for manifest in manifests} == {keras.backend.backend()}


def test_exam_networks_are_stale_after_their_slice_network_is_trained_again(job):
    """The identities do not change; the manifest of the exam network is removed."""
    slice_run, exam_run = job_artifacts(SETTINGS, "tiny", 0)
    runs.train_fold(SETTINGS, "tiny", 0, 1, force=True)
    assert slice_run.stale_reason() is None
    assert exam_run.stale_reason() == "not built yet"


def test_a_kill_during_retraining_leaves_no_finished_exam_network(job, monkeypatch):
    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("models.slice_training.train_network", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.train_fold(SETTINGS, "tiny", 0, 1, force=True)
    assert [artifact.stale_reason() for artifact in job_artifacts(SETTINGS, "tiny", 0)] == ["not built yet"] * 2


def test_every_pass_over_slices_uses_the_same_number_of_loaders(contest, monkeypatch):
    """Half of six threads."""
    from models import prediction_engine
    from models import slice_training as training

    used_threads = []

    def recording(make, count, ahead=2, threads=1):
        used_threads.append(threads)
        return map(make, range(count))

    monkeypatch.setattr(prediction_engine, "prefetched", recording)
    monkeypatch.setattr(training, "prefetched", recording)
    train(threads=6)
    assert used_threads == [3] * 5  # two epochs, held-out fold, test exams, embeddings of the training slices


def test_the_reported_loss_is_that_of_the_best_epoch(contest, monkeypatch):
    from models import slice_training as training

    original = training.train_network

    def with_best_first(*arguments, **options):
        run = original(*arguments, **options)
        run.history = History(run.history.losses, run.history.rates, inner_losses=[0.1, 0.2])
        return run

    monkeypatch.setattr(training, "train_network", with_best_first)
    summary = runs.train_fold(SETTINGS, "tiny", 0, 1)
    losses = pd.read_csv(paths.model_run("tiny", 0) / "history.csv")["loss"]
    assert losses[0] != losses[1]
    metrics = read_manifest(paths.model_run("tiny", 0))["metrics"]
    assert metrics["best_epoch"] == 1 and metrics["final_loss"] == pytest.approx(losses[0], rel=1e-12)
    assert summary[0].startswith(f"loss {losses[0]:.4f}")


def test_a_run_depends_on_the_content_of_its_weights_file(job, tmp_path):
    file = tmp_path / "first.npz"
    shutil.copyfile(paths.model_run("tiny", 0) / "weights.npz", file)
    settings = with_models(weights=str(file))
    assert runs.train_fold(settings, "tiny", 0, 1)
    assert runs.train_fold(settings, "tiny", 0, 1) == []
    file.write_bytes(b"another")
    assert "weights" in network_artifact(settings, "tiny", 0).stale_reason()


def test_the_plane_table_has_plane_position_and_labels_of_every_slice(contest):
    table = runs.plane_table("train")
    assert len(table) == 36 and set(table["split"]) == {"train"}
    assert (table["z_mm"] == 5.0 * table["plane"]).all()
    positive = table.loc[table[SLICE_LABEL] == 1, ["plane", STUDY]]
    assert set(positive["plane"]) == {2, 3} and set(positive[STUDY]) == {"exam0", "exam1", "exam4"}
