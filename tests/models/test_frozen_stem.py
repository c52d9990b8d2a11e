"""Frozen layers computed by OpenVINO: the split network is the whole one."""

from dataclasses import replace

import numpy as np
import pytest

from models.slice_views import UNCHANGED, draw_augmentation
from pipeline.settings import ModelsSettings

#: These tests build whole backbones.
pytestmark = pytest.mark.slow

#: The layers up to stride 16.
SETTINGS = ModelsSettings(
    height=64, width=80, weights="none", used_share=0.6, precision="float32", engine="openvino"
)  # fmt: skip
#: The layers up to stride 8, for tests of what does not depend on the layers behind the stem.
SHORT = replace(SETTINGS, frozen_share=0.24, used_share=0.35)


#: The name of the layer behind which networks are split here.
LAST = "stage3_block1_project"


@pytest.fixture(scope="module")
def short_run():
    """A split network, for tests that do not change its stem, and the exported graph of that."""
    from models.frozen_stem import _exported_graph
    from models.training_run import TrainingRun

    run = TrainingRun(SHORT, "mobilenetv2", "none")
    return run, _exported_graph(run._parts.stem)


@pytest.fixture
def run(short_run, monkeypatch):
    """The split network; its stem is not exported again."""
    from models import frozen_stem

    run, graph = short_run
    export = frozen_stem._exported_graph
    monkeypatch.setattr(
        frozen_stem, "_exported_graph", lambda model: graph.clone() if model is run._parts.stem else export(model)
    )
    return run


@pytest.mark.parametrize(("backbone", "share"), [("mobilenetv2", 0.26), ("efficientnet_lite0", 0.24)])
def test_stem_and_rest_are_the_network(backbone, share):
    from models.frozen_stem import _last_cut
    from models.training_run import TrainingRun

    run = TrainingRun(replace(SETTINGS, frozen_share=share), backbone, "none")
    images = np.random.default_rng(0).random((5, 64, 80, 3), dtype=np.float32)
    assert _last_cut(run.model.get_layer(backbone)).name == LAST
    features = run.stem()([("study", plane, UNCHANGED) for plane in range(5)], lambda views: images)
    whole, rest = run.model.predict_on_batch(images), run.trained.predict_on_batch(features)
    for name, values in whole.items():
        np.testing.assert_allclose(rest[name], values, rtol=1e-2, atol=1e-3, err_msg=name)  # features in float16
    assert list(map(id, run.trained.trainable_variables)) == list(map(id, run.model.trainable_variables))


def test_a_stem_in_bfloat16_is_near_the_one_in_float32(run):
    from models.frozen_stem import StemFeatures, stem_precision

    if stem_precision("auto") != "bf16":
        pytest.skip("this processor does not multiply bfloat16")
    assert stem_precision("float32") == "f32"
    images = np.random.default_rng(0).random((3, 64, 80, 3), dtype=np.float32)
    exact, rounded = (StemFeatures(run._parts.stem, precision)(images) for precision in ("float32", "auto"))
    difference = np.abs(exact - rounded).mean() / exact.std()
    assert 0 < difference < 0.05


def test_features_do_not_depend_on_the_number_of_loaders(run):
    from models.batches import prefetched
    from models.frozen_stem import StemFeatures

    images = np.random.default_rng(0).random((8, 6, 64, 80, 3), dtype=np.float32)
    results = []
    for threads in (1, 4):
        stem = StemFeatures(run._parts.stem, "auto", threads)
        results.append(list(prefetched(lambda batch, stem=stem: stem(images[batch]), len(images), threads=threads)))
    one, four = results
    assert all(map(np.array_equal, one, four))


def test_views_that_were_computed_before_have_the_same_features_as_if_they_were_computed_again(run, monkeypatch):
    from models import frozen_stem

    stem = frozen_stem.StemFeatures(run._parts.stem, "auto")
    images = np.random.default_rng(0).random((9, 64, 80, 3), dtype=np.float32)
    augmentations = [draw_augmentation(SETTINGS, epoch=0, key=key, repeat=0) for key in range(9)]
    views = [("study", plane, augmentation) for plane, augmentation in enumerate(augmentations)]
    made = []

    def make(views):
        made.append([plane for _, plane, _ in views])
        return images[made[-1]]

    batches = ([0, 1, 2, 3, 4], [4, 5, 1, 6, 2], [7, 8, 0, 6, 3])
    shared = frozen_stem.SharedFeatures(stem)
    for planes in batches:
        of_planes = [views[plane] for plane in planes]
        apart = frozen_stem.SharedFeatures(stem)(of_planes, lambda _, planes=planes: images[planes])
        features = shared(of_planes, make)
        assert features.dtype == np.float32 and np.array_equal(features, apart)
    assert made == [[0, 1, 2, 3, 4], [5, 6], [7, 8]]
    shared([("study", 0, draw_augmentation(SETTINGS, epoch=1, key=0, repeat=0))], lambda views: images[:1])
    monkeypatch.setattr(frozen_stem, "REMEMBERED_BYTES", features[0].nbytes // 2)  # room for one view in float16
    full = frozen_stem.SharedFeatures(stem)
    for count in (5, 4):
        full(views[:5], lambda views, count=count: images[: len(views)] if len(views) == count else None)


def test_folds_predict_what_the_network_predicts_and_share_the_features_of_common_slices(run, monkeypatch, tmp_path):
    from models import frozen_stem
    from models.prediction_engine import GRAPH, OUTPUTS, openvino_engine

    assert frozen_stem._last_cut(run.model.get_layer("mobilenetv2")).name == LAST
    random = np.random.default_rng(0)
    batches = random.random((2, 4, 64, 80, 3), dtype=np.float32)
    names = [str(number) for number in range(8)]
    computed, exported, export = [], [], frozen_stem._exported_graph
    engines = frozen_stem.SplitEngines(run._parts.stem, 1)
    stem = engines._stem
    monkeypatch.setattr(
        frozen_stem, "_exported_graph", lambda model: exported.append(export(model)) or exported[-1].clone()
    )
    monkeypatch.setattr(engines, "_stem", lambda images: computed.append(len(images)) or stem(images))
    for fold in range(2):
        kernel = run.trained.get_layer("head").get_layer("slice_answer").kernel
        kernel.assign(random.normal(size=kernel.shape))
        split = engines.of(run.trained, names, tmp_path / GRAPH)
        for engine in (*split, openvino_engine(tmp_path, 1)):
            for images in batches:
                expected = run.model.predict_on_batch(images)
                for name, values in zip(OUTPUTS, engine(images), strict=True):
                    np.testing.assert_allclose(values, expected[name], rtol=1e-3, atol=1e-3, err_msg=f"{fold} {name}")
    assert computed == [4, 4, 4, 4, 4, 4], "twice in the first fold, once in the second"
    monkeypatch.setattr(frozen_stem, "REMEMBERED_BYTES", stem(batches[0])[0].nbytes)  # room for one batch
    computed.clear()
    monkeypatch.setattr(frozen_stem, "_exported_graph", lambda model: exported[-1].clone())
    for _ in range(2):
        _, shared = engines.of(run.trained, names[::-1], tmp_path / GRAPH)
        for images in batches:
            shared(images)
    assert computed == [4, 4, 4]


@pytest.mark.parametrize(
    "change",
    [{"frozen_share": 0.0}, {"unfreeze_epoch": 1}, {"trainable_windows": True}, {"engine": "keras"},
     {"precision": "mixed_bfloat16"}],
)  # fmt: skip
def test_without_frozen_layers_or_openvino_the_whole_network_is_trained(run, monkeypatch, change):
    """With the same network, so that only the settings decide."""
    from models import training_run

    network = run.model, [run.model.get_layer("mobilenetv2").output]
    monkeypatch.setattr(training_run, "slice_network_with_maps", lambda *_, **__: network)
    changed = training_run.TrainingRun(replace(SHORT, **change), "mobilenetv2", "none")
    assert changed.stem() is None and changed.model is run.model
    assert changed.trained.layers == run.model.layers
