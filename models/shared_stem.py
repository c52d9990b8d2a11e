"""Finished networks of one backbone that begin with the same frozen layers: these are computed once for all.

The exported graphs of the folds are compared constant by constant. Up to the first difference they compute the same,
and are cut at the last point there that one tensor passes. Training cuts its networks before they are exported
(`models.frozen_stem`).
"""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from models.prediction_engine import GRAPH, OUTPUTS, Engine, compiled_graph, read_graph

#: Input -> outputs of a compiled part of a network.
Graph = Callable[[np.ndarray], list[np.ndarray]]


def shared_engines(directories: Sequence[Path], threads: int, *, streams: int = 1) -> list[Engine] | None:
    """Make engines of several runs of one architecture that share their common first layers.

    An engine that is called with the array of the previous call of its thread, whichever engine got it, reads the
    features of that call.

    Args:
        directories: Folders with the files of `models.prediction_engine.export_graph`, verified.
        threads, streams: As in `models.prediction_engine.openvino_engine`.

    Returns:
        An engine per folder; None where the graphs have no common first layers.
    """
    graphs = [read_graph(directory / GRAPH) for directory in directories]
    cut = common_cut([graph.get_ordered_ops() for graph in graphs])
    if cut is None:
        return None
    parts = [split_graph(graph, cut) for graph in graphs]
    stem = _LastFeatures(compiled_graph(parts[0][0], threads, outputs=1, streams=streams))
    rests = [compiled_graph(rest, threads, outputs=len(OUTPUTS), streams=streams) for _, rest in parts]
    return [joined_engine(stem, rest) for rest in rests]


def joined_engine(stem: Graph, rest: Graph) -> Engine:
    """Make an engine from the two parts of a network."""

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        logits, embeddings, maps = rest(stem(images)[0])
        return logits, embeddings, maps

    return run


def common_cut(operations: Sequence[list[Any]]) -> int | None:
    """Return the position of the operation to cut behind, in the order of all graphs; None if there is none.

    Args:
        operations: The operations of every graph in topological order.
    """
    first, *others = operations
    if any(len(other) != len(first) for other in others):
        return None
    columns = enumerate(zip(*operations, strict=True))
    same = next((index for index, column in columns if not _equal(column)), len(first))
    position = {operation.get_friendly_name(): index for index, operation in enumerate(first)}
    last_reader = [
        max((position[reader.get_node().get_friendly_name()] for output in operation.outputs()
             for reader in output.get_target_inputs()), default=-1)
        for operation in first
    ]  # fmt: skip
    cut, furthest = None, -1  # furthest: where the last operation is that reads from before the cut
    for index in range(same):
        kind = first[index].get_type_name()
        if kind not in ("Constant", "Parameter") and furthest <= index < last_reader[index] and _is_map(first[index]):
            cut = index
        if kind != "Constant":
            furthest = max(furthest, last_reader[index])
    return cut


def _equal(operations: Sequence[Any]) -> bool:
    """Whether operations at one position of several graphs are the same; constants by their values."""
    first, *others = operations
    if any(other.get_type_name() != first.get_type_name() for other in others):
        return False
    if first.get_type_name() != "Constant":
        return True
    return all(np.array_equal(first.get_data(), other.get_data()) for other in others)


def _is_map(operation: Any) -> bool:
    """Whether an operation has one output, a batch of feature maps of known size."""
    shape = operation.output(0).get_partial_shape()
    return operation.get_output_size() == 1 and len(shape) == 4 and all(size.is_static for size in list(shape)[1:])


def split_graph(graph: Any, cut: int) -> tuple[Any, Any]:
    """Split a graph behind the operation at a position of `common_cut`; the graph itself is used up."""
    import openvino

    output = graph.get_ordered_ops()[cut].output(0)
    readers = list(output.get_target_inputs())  # without the stem's result
    stem = openvino.Model([output], graph.get_parameters(), "stem")
    features = openvino.op.Parameter(output.get_element_type(), output.get_partial_shape())
    for reader in readers:
        reader.replace_source_output(features.output(0))
    return stem, openvino.Model(graph.get_results(), [features], "rest")


def join_graphs(stem: Any, rest: Any) -> Any:
    """Join two graphs as `split_graph` gives them to one; both are used up."""
    import openvino

    features = stem.output(0).get_node().input_value(0)  # what the stem's result reads
    for reader in rest.input(0).get_target_inputs():
        reader.replace_source_output(features)
    return openvino.Model(rest.get_results(), stem.get_parameters(), "network")


class _LastFeatures:
    """A stem that keeps, for every thread, the features of the array that it was called with last."""

    def __init__(self, run: Graph) -> None:
        self._run = run
        self._of_thread = threading.local()

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        if getattr(self._of_thread, "images", None) is not images:
            self._of_thread.features = self._run(images)
            self._of_thread.images = images  # keeps the array, so that no other one can be taken for it
        return self._of_thread.features
