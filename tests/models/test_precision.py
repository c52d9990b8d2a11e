"""Device queries and precision: choice of the dtype policy, float32 outputs."""

import dataclasses

import numpy as np
import pytest

from models.device import Device, cpu_flags, onednn_is_limited
from models.precision import PRECISIONS, select_precision
from pipeline.errors import UserError
from pipeline.settings import ModelsSettings

PLAIN_CPU, NEW_CPU = Device("cpu", False), Device("cpu", True)
T4, A100 = Device("gpu", False), Device("gpu", True)


@pytest.mark.parametrize(
    ("precision", "device", "dense", "expected"),
    [
        ("auto", PLAIN_CPU, False, "float32"),
        ("auto", PLAIN_CPU, True, "float32"),
        ("auto", NEW_CPU, False, "float32"),
        ("auto", NEW_CPU, True, "mixed_bfloat16"),
        ("auto", T4, False, "mixed_float16"),
        ("auto", T4, True, "mixed_float16"),
        ("auto", A100, False, "mixed_bfloat16"),
        ("auto", A100, True, "mixed_bfloat16"),
        ("float32", A100, True, "float32"),
        ("mixed_bfloat16", PLAIN_CPU, False, "mixed_bfloat16"),
        ("mixed_float16", A100, False, "mixed_float16"),
    ],
)
def test_the_precision_depends_on_device_and_network(precision, device, dense, expected):
    assert select_precision(precision, device, dense=dense) == expected


def test_float16_on_a_cpu_and_unknown_names_are_errors():
    with pytest.raises(UserError, match="many times slower"):
        select_precision("mixed_float16", NEW_CPU, dense=True)
    with pytest.raises(UserError, match=f"Expected one of {', '.join(PRECISIONS)}, got 'half'"):
        select_precision("half", A100, dense=True)


def test_the_default_backbones_stay_float32_on_any_cpu():
    from models.backbones import BACKBONES

    for backbone in ModelsSettings().backbones:
        assert select_precision("auto", NEW_CPU, dense=BACKBONES[backbone].dense) == "float32"


def test_instruction_sets_are_read_from_the_first_core(tmp_path):
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx512f avx512_bf16\n\nprocessor : 1\nflags\t\t: fpu\n")
    assert cpu_flags(file) == {"fpu", "avx512f", "avx512_bf16"}
    assert cpu_flags(tmp_path / "none") == set()


@pytest.mark.parametrize(("capability", "gpu"), [((7, 5), True), ((0, 0), True), (None, False)])
def test_every_user_of_the_gpu_query_gets_the_same_answer(monkeypatch, capability, gpu):
    import keras

    from models import device
    from models.prediction_engine import select_engine
    from models.se_resnext import _grouped_gradient_is_slow

    monkeypatch.setitem(device._GPU_CAPABILITY, keras.backend.backend(), lambda: capability)
    tensorflow = keras.backend.backend() == "tensorflow"
    assert device.this_device().kind == ("gpu" if gpu else "cpu")
    assert select_engine("auto") == ("openvino" if tensorflow and not gpu else "keras")
    assert _grouped_gradient_is_slow() == (tensorflow and not gpu)


@pytest.mark.slow
@pytest.mark.skipif(onednn_is_limited(), reason="ONEDNN_MAX_CPU_ISA rules out bfloat16 and float16")
def test_a_bfloat16_network_has_float32_outputs_and_a_float32_copy(monkeypatch):
    import keras
    from keras import layers

    from models.backbones import BACKBONES, Backbone
    from models.slice_network import in_float32, slice_network

    monkeypatch.setitem(
        BACKBONES, "tiny", Backbone(lambda images: layers.Conv2D(8, 5, 4)(images), (0.5,) * 3, (0.5,) * 3, "none")
    )
    settings = ModelsSettings(height=32, width=32, embedding=8, precision="mixed_bfloat16", pooling="gem")
    model = slice_network(settings, "tiny", "none")
    assert keras.config.dtype_policy().name == "float32"  # the policy is restored
    (convolution,) = [layer for layer in model.get_layer("tiny").layers if isinstance(layer, layers.Conv2D)]
    assert (convolution.compute_dtype, convolution.variable_dtype) == ("bfloat16", "float32")
    assert {name: output.dtype for name, output in model.output.items()} == {
        "logits": "float32",
        "embedding": "float32",
        "map": "float32",
        "evidence": "float32",
    }
    copy = in_float32(model, settings, "tiny")
    images = np.random.default_rng(0).random((4, 32, 32, 3), dtype=np.float32)
    rounded, exact = model.predict_on_batch(images)["logits"], copy.predict_on_batch(images)["logits"]
    np.testing.assert_allclose(rounded, exact, atol=0.05)
    assert not np.array_equal(rounded, exact)
    plain = dataclasses.replace(settings, precision="float32")
    assert in_float32(copy, plain, "tiny") is copy
