"""Speed and memory of a slice network over whole exams, from the store to probabilities and embeddings.

    ./run.sh bench inference_speed                                1, 5 and 20 exams of 250 slices at 256 pixels
    ./run.sh bench inference_speed --backbone mobilenetv2 --exams 1 --size 128
    ./run.sh bench inference_speed --engine keras                 without the exported graph

Writes noise into a temporary store (the cost does not depend on the pixels), builds the network without pretrained
weights, exports it in a separate process, then predicts 1, 5 and 20 exams as ./run.sh predict does: read, build the
input, one forward pass for probabilities and embeddings, batch by batch. Memory is the peak of the process so far; it
does not grow with the number of exams when all lines show the same value. Run it on an idle machine.
"""

import argparse
import dataclasses
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from features.lung_box import Box
from features.store import write_exam
from input.contest import SOP, STUDY
from models.backbones import BACKBONES
from models.batches import loader_threads
from models.prediction_engine import Engine, export_graph, keras_engine, openvino_engine, predict_slices
from models.slice_views import SliceViews
from pipeline.cli import run
from pipeline.console import say
from pipeline.machine import cores
from pipeline.settings import ModelsSettings

SPACING_MM, STEP_MM = 1.4, 1.0


def write_noise_exams(store: Path, count: int, slices: int, size: int) -> pd.DataFrame:
    """Store exams of uniform noise.

    Args:
        store: an empty folder.
        count: number of exams.
        slices: slices per exam.
        size: pixels per side.

    Returns:
        One row per slice: study, SOP and plane.
    """
    random = np.random.default_rng(0)
    hu = random.integers(-900, 400, (slices, size, size)).astype(np.int16)
    rows = []
    for exam in range(count):
        study = f"exam{exam:02d}"
        sops = tuple(f"{study}-{plane}" for plane in range(slices))
        write_exam(
            store, study, "series", np.roll(hu, exam, axis=0), z_mm=np.arange(slices) * STEP_MM,
            spacing_mm=(SPACING_MM, SPACING_MM), raw_spacing_mm=(0.7, 0.7), sop_uids=sops,
            box=Box(0, 2 * size, 0, 2 * size, 0, slices, float(size), True),
        )  # fmt: skip
        rows.append(pd.DataFrame({STUDY: study, SOP: sops, "plane": np.arange(slices)}))
    return pd.concat(rows, ignore_index=True)


def export(settings: ModelsSettings, backbone: str, directory: Path) -> None:
    """Build a network and write its graph; run in a separate process, so that TensorFlow's memory is not counted."""
    from models.slice_network import slice_network

    export_graph(slice_network(settings, backbone, "none"), directory)


def engine_named(name: str, settings: ModelsSettings, backbone: str, directory: Path, threads: int) -> Engine:
    """Build the prediction engine: OpenVINO on the exported graph, or Keras.

    Args:
        name: openvino or keras.
        settings: of the network.
        backbone: name of the network.
        directory: folder for the exported graph.
        threads: CPU threads.
    """
    if name == "keras":
        from models.slice_network import slice_network

        return keras_engine(slice_network(settings, backbone, "none"))
    process = multiprocessing.get_context("spawn").Process(target=export, args=(settings, backbone, directory))
    process.start()
    process.join()
    return openvino_engine(directory, threads)


def measure(
    engine: Engine, slices: pd.DataFrame, store: Path, settings: ModelsSettings, threads: int
) -> tuple[float, int]:
    """Predict all slices and discard the results.

    Args:
        engine: of the network.
        slices: study, SOP and plane of every slice.
        store: the pixel store.
        settings: of the network.
        threads: CPU threads.

    Returns:
        Seconds, and the number of predicted slices.
    """
    started, predicted = time.perf_counter(), 0
    views = SliceViews(store, settings)
    for frame, embeddings, _ in predict_slices(engine, slices, views, settings, loaders=loader_threads(threads)):
        assert np.isfinite(frame["pe"]).all() and len(embeddings) == len(frame)
        predicted += len(frame)
    return time.perf_counter() - started, predicted


def main() -> None:
    """Write the exams, export the network, and measure every number of exams."""
    parser = argparse.ArgumentParser(
        prog="./run.sh bench inference_speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--exams", type=int, nargs="+", default=[1, 5, 20], help="numbers of exams, ascending")
    parser.add_argument("--slices", type=int, default=250, help="slices per exam (%(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels per side, of store and input (%(default)s)")
    parser.add_argument("--backbone", default="efficientnet_lite0", choices=BACKBONES, help="the network (%(default)s)")
    parser.add_argument(
        "--engine", default="openvino", choices=("openvino", "keras"), help="prediction engine (%(default)s)"
    )
    parser.add_argument("--threads", type=int, default=cores(), help="CPU threads (%(default)s)")
    arguments = parser.parse_args()
    settings = dataclasses.replace(
        ModelsSettings(), height=arguments.size, width=arguments.size, pixel_mm=SPACING_MM, flip_tta=False
    )
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "store"
        slices = write_noise_exams(store, max(arguments.exams), arguments.slices, arguments.size)
        engine = engine_named(arguments.engine, settings, arguments.backbone, Path(folder), arguments.threads)
        say(f"{arguments.backbone}, {arguments.engine}, {arguments.size} pixels, {arguments.threads} threads")
        for count in sorted(arguments.exams):
            seconds, predicted = measure(
                engine, slices.iloc[: count * arguments.slices], store, settings, arguments.threads
            )
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
            say(
                f"{count:3d} exams, {predicted} slices: {seconds:.1f} s, {seconds / count:.2f} s per exam, "
                f"{predicted / seconds:.0f} slices/s, peak {peak:.0f} MB"
            )


if __name__ == "__main__":
    run(main)
