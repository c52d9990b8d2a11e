"""Every kind of file of a finished run, damaged in four ways: the next command that reads it names it and its repair.

One file of each of 49 kinds (KINDS) of a small run, and its 10 manifests, are flipped in one bit, truncated, emptied
and removed: 236 damages. Each time `./run.sh experiments --check`, and the command that reads the file next, must end
with an error of one line per file; none may end with a traceback or go on with another result.
"""

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ensemble.__main__ import main as ensemble_main
from ensemble.fit_novelty import fit_novelty, read_references
from features.__main__ import main as features_main
from inference.__main__ import main as inference_main
from inference.repeat_seeds import _promotions
from input.__main__ import main as input_main
from models.__main__ import main as models_main
from pipeline import paths
from pipeline.artifact import MANIFEST
from pipeline.errors import UserError
from pipeline.experiments import SETTINGS, recorded_settings
from pipeline.settings import Settings
from submissions.__main__ import main as submissions_main
from submissions.check_artifacts import check_artifacts
from submissions.packed_model import model_contents
from tests.support.eager_steps import run_eagerly
from tests.support.small_run import command

#: These tests train networks or run whole stages.
pytestmark = pytest.mark.slow

NAME = "damaged"
SMALLEST = (
    "phantom.rows=64", "phantom.slices=12", "phantom.train_exams=10", "phantom.test_exams=3",
    'models.backbones=["tiny"]', "models.weights=none", "models.height=32",
    "models.width=40", "models.epoch_slices=32", "models.exam.epochs=1", "models.engine=openvino",
    "ensemble.exam_rounds=10", "ensemble.slice_rounds=10", "ensemble.exam_min_data=2", "ensemble.slice_min_data=8",
    "ensemble.bootstrap=20", "submissions.bootstrap=20",
    "inference.evidence.riskiest=1", "inference.evidence.random=1",
)  # fmt: skip
DAMAGES = ("flipped", "truncated", "emptied", "removed")


def options() -> list[str]:
    """The experiment on the command line: by its settings, as no name recalls them before it has started."""
    words = ["--name", NAME, "--settings", "settings/tests.toml"]
    return [*words, *(word for override in SMALLEST for word in ("--set", override))]


def _stage(main: Callable[[], object], *words: str) -> Callable[[Settings], object]:
    return lambda settings: command(main, *words, *options())


_prepare = _stage(input_main, "prepare")
_build_store = _stage(features_main, "build", "--force")
_train = _stage(models_main, "train", "--force")
_fit = _stage(ensemble_main, "fit", "--force")
_write = _stage(submissions_main, "write", "--force")
_write_again = _stage(submissions_main, "write")
_report = _stage(inference_main, "report", "--force")


def _draw(settings: Settings) -> None:
    from models.training_jobs import _draw_overview

    _draw_overview(settings)


def _train_exam_network(settings: Settings) -> None:
    from models.exam_runs import train_exam_networks

    train_exam_networks(settings, "tiny", 0, 1, force=True)


def _open_networks(settings: Settings) -> None:
    from models.apply_networks import FinishedNetworks

    FinishedNetworks(settings)


def _fit_novelty(settings: Settings) -> None:
    fit_novelty(settings, force=True)


def _read_references(settings: Settings) -> None:
    read_references()


def _read_promotions(settings: Settings) -> None:
    _promotions(NAME)


def _check(settings: Settings) -> None:
    check_artifacts()


#: Files of a finished experiment -> the command that reads them next; `_check` where no command does. The folders are
#: those of the experiment with its links.
KINDS = {
    "artifacts/raw/train.csv": _build_store,
    "artifacts/raw/test.csv": _write,
    "artifacts/raw/sample_submission.csv": _write,
    "artifacts/raw/train/*/*/*.dcm": _build_store,
    "artifacts/raw/test/*/*/*.dcm": _build_store,
    "artifacts/raw/truth/test_truth.csv": _write,
    "artifacts/raw/truth/exams.csv": _build_store,
    "artifacts/raw/truth/clots.csv": _build_store,
    "artifacts/raw/truth/exams/*.json": _build_store,
    "artifacts/raw/truth/masks/*.npz": _build_store,
    "artifacts/prepared/exams.parquet": _train,
    "artifacts/prepared/slices.parquet": _build_store,
    "artifacts/prepared/report.json": _check,
    "artifacts/store/*.b2nd": _train,
    "artifacts/store/[0-9]*.json": _train,
    "artifacts/store/slices.parquet": _fit,
    "artifacts/store/exams.parquet": _fit,
    "artifacts/store/report.json": _train,
    "artifacts/masks/*.b2nd": _train,
    "artifacts/masks/slices.parquet": _train,
    "artifacts/acceptance/exams.parquet": _write,
    "artifacts/models/tiny/fold0/slices.parquet": _train_exam_network,
    "artifacts/models/tiny/fold0/embeddings.npy": _train_exam_network,
    "artifacts/models/tiny/fold1/embeddings.npy": _fit_novelty,
    "artifacts/models/tiny/fold1/slices.parquet": _fit,
    "artifacts/models/tiny/fold0/maps.parquet": _report,
    "artifacts/models/tiny/fold0/network.xml": _open_networks,
    "artifacts/models/tiny/fold0/network.bin": _open_networks,
    "artifacts/models/tiny/fold0/weights.npz": _check,
    "artifacts/models/tiny/fold0/history.csv": _draw,
    "artifacts/models/tiny/fold0/learning.png": _check,
    "artifacts/models/tiny_gru/fold0/slices.parquet": _fit,
    "artifacts/models/tiny_gru/fold0/weights.npz": _open_networks,
    "artifacts/models/tiny_gru/fold0/scale.npz": _open_networks,
    "artifacts/models/tiny_gru/fold0/history.csv": _draw,
    "artifacts/models/tiny_gru/fold0/learning.png": _check,
    "artifacts/ensemble/exams.parquet": _write,
    "artifacts/ensemble/slices.parquet": _write,
    "artifacts/ensemble/models.json": model_contents,
    "artifacts/ensemble/trees/final/*.txt": model_contents,
    "artifacts/ensemble/promotion.csv": _read_promotions,
    "artifacts/novelty/novelty.npz": _read_references,
    "artifacts/novelty/exams.parquet": _report,
    "submission.csv": _write_again,
    "prior.csv": _write_again,
    "report.md": _write_again,
    "report.png": _write_again,
    "evidence/evidence.html": _check,
    "evidence/location.json": _check,
}
#: Manifests -> a command that needs the finished artifact.
MANIFESTS = {
    "artifacts/raw": _prepare,
    "artifacts/prepared": _build_store,
    "artifacts/store": _train,
    "artifacts/masks": _train,
    "artifacts/acceptance": _write,
    "artifacts/models/tiny/fold0": _fit,
    "artifacts/models/tiny_gru/fold0": _fit,
    "artifacts/ensemble": _write,
    "artifacts/novelty": _write,
    ".": _report,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Finish the small run under PE_ROOT; yield its root."""
    import keras

    from models.backbones import BACKBONES, Backbone
    from models.exam_forward import STATES
    from models.exam_network import BUILDERS

    def graph(images: keras.KerasTensor) -> keras.KerasTensor:
        return keras.layers.ReLU()(keras.layers.Conv2D(8, 5, 4)(images))

    def no_layer(tensor: object, *_: object) -> object:
        return tensor

    root = tmp_path_factory.mktemp("root")
    with pytest.MonkeyPatch.context() as patch:
        run_eagerly(patch)
        patch.setenv("PE_ROOT", str(root))
        patch.setenv(paths.EXPERIMENT, NAME)
        patch.setitem(BACKBONES, "tiny", Backbone(graph, (0.5,) * 3, (0.5,) * 3, "none"))
        patch.setitem(BUILDERS, "gru", no_layer)  # a real GRU takes seconds to compile
        patch.setitem(STATES, "gru", lambda weights: no_layer)
        # The real function may run only once per process, before the first operation.
        patch.setattr("models.slice_runs.prepare_backend", lambda recipe, threads: None)
        command(input_main, "prepare", *options())
        command(features_main, "build", *options())
        for fold in ("0", "1"):
            command(models_main, "fold", "--backbone", "tiny", "--fold", fold, *options())
        command(ensemble_main, "fit", *options())
        command(submissions_main, "write", *options())
        command(inference_main, "report", *options())
        yield root


@pytest.fixture
def experiment(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run; returns the experiment's folder."""
    shutil.copytree(run, tmp_path / "root", symlinks=True)
    monkeypatch.setenv("PE_ROOT", str(tmp_path / "root"))
    paths.select_experiment(NAME)
    return paths.experiment()


def damage(file: Path, how: str) -> None:
    """Damage a file in one of DAMAGES."""
    data = file.read_bytes()
    assert data
    if how == "removed":
        file.unlink()
    elif how == "flipped":
        middle = len(data) // 2
        file.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    else:
        file.write_bytes(data[: len(data) // 2] if how == "truncated" else b"")


def error_of(reader: Callable[[Settings], object]) -> str:
    """The error of a command."""
    paths.select_experiment(NAME)
    with pytest.raises(UserError) as caught:
        reader(recorded_settings(NAME))
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_named_with_the_command_that_builds_it_again(experiment: Path, kind: str) -> None:
    file = sorted(experiment.glob(kind))[0]
    data = file.read_bytes()
    for how in DAMAGES:
        damage(file, how)
        for reader in dict.fromkeys((_check, KINDS[kind])):
            if how == "removed" and reader is _write_again:  # the command that reads it is the one that writes it
                reader(recorded_settings(NAME))
                assert file.read_bytes() == data
                continue
            message = error_of(reader)
            expected = "missing" if how == "removed" else "changed since it was written (sha256 differs)"
            assert re.search(rf"/{re.escape(file.name)}: {re.escape(expected)}", message), message
            assert re.search(rf"Rebuild it: (rm -f \S+ && )?\./run\.sh --name {NAME}", message), message
            assert message.count(file.name) == (1 if how == "removed" else 2), message
        file.write_bytes(data)


@pytest.mark.parametrize("folder", MANIFESTS)
@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_manifest_is_named_with_the_command_that_builds_it_again(
    experiment: Path, folder: str, how: str
) -> None:
    damage(experiment / folder / MANIFEST, how)
    if how == "removed" and MANIFESTS[folder] is _prepare:  # the command that reads it is the one that writes it
        _prepare(recorded_settings(NAME))
        return
    message = error_of(MANIFESTS[folder])
    if how == "removed":
        assert re.search(r"\./run\.sh", message), message
    else:
        name = (experiment / folder).resolve().name
        assert re.search(rf"Damaged manifest: \S*/{MANIFEST}: changed since it was written", message), message
        assert name in message or f"{NAME}/{folder}" in message
        assert f"./run.sh --name {NAME}" in message


def test_every_kind_of_file_is_damaged(run: Path) -> None:
    paths.select_experiment(NAME)
    experiment = paths.experiment()
    folders = [file.parent for pattern in ("*/", "*/*/", "*/*/*/*/") for file in experiment.glob(pattern + MANIFEST)]
    written = {file for folder in folders for file in folder.resolve().rglob("*") if file.is_file()}
    damaged = {kind(file) for pattern in KINDS for file in experiment.glob(pattern)}
    assert {kind(file) for file in written if file.name != MANIFEST} <= damaged


def kind(file: Path) -> tuple[str, str]:
    """The artifact's name without identity and fold, and the file's name without UIDs and numbers; trees are equal."""
    folder = file.resolve().relative_to(paths.root().resolve())
    artifact = re.sub(r"(-fold\d)?-[0-9a-f]{10}$", "", "/".join(folder.parts[:3]))
    return artifact, re.sub(r"[0-9a-f]*\d|.*(?=\.txt)", "", file.name)


@pytest.mark.parametrize("how", ["flipped", "truncated", "emptied"])
def test_damaged_settings_of_an_experiment_are_named(experiment: Path, how: str) -> None:
    damage(experiment / SETTINGS, how)
    for reader in (lambda: recorded_settings(NAME), lambda: command(submissions_main, "write", *options())):
        with pytest.raises(UserError, match=rf"Damaged settings: .*{SETTINGS}.*rm -f .*{SETTINGS} && \./run\.sh"):
            reader()


@pytest.mark.parametrize("how", ["truncated", "emptied"])
def test_a_damaged_leaderboard_is_named(experiment: Path, how: str) -> None:
    damage(paths.experiments() / "leaderboard.csv", how)
    with pytest.raises(UserError, match="leaderboard.csv"):
        command(submissions_main, "leaderboard")
