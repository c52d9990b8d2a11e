"""Reads a PyTorch state dict without PyTorch and without running anything from the file.

Covers the layout that `torch.save` wrote before version 1.6: five pickles (magic number, protocol,
system facts, the state dict, the storages' keys) followed by the storages, each as an element
count (int64) and raw little-endian values. The pickles go through an unpickler that knows four
names and refuses every other one, so a tampered file can raise but not execute.
"""

import collections
import pickle
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {"FloatStorage": np.dtype("<f4"), "HalfStorage": np.dtype("<f2"), "LongStorage": np.dtype("<i8")}


class _View(NamedTuple):
    """A tensor as the pickle describes it: a strided view of a storage that follows later."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _view(storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


class _StateDictUnpickler(pickle.Unpickler):
    """Knows ordered dicts, tensors and the storages in `DTYPES`; everything else is refused."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the stream may mean: tensors, their types, OrderedDict; anything else is refused."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"refused to load {module}.{name}: only tensors and OrderedDict are allowed")

    def persistent_load(self, pid: Any) -> str:
        """The key of a storage, whose bytes follow the pickles; its type is kept."""
        kind, storage_type, key, _location, _elements, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"refused a persistent object of kind {kind!r}")
        self.dtypes[key] = DTYPES[storage_type]
        return key


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Read name -> array (torch's axis order) from a state dict in the pre-1.6 format.

    Raises:
        ValueError: not such a file, or truncated.
        pickle.UnpicklingError: the file names anything but tensors.
    """
    with path.open("rb") as file:
        magic, _protocol, _system = (_StateDictUnpickler(file).load() for _ in range(3))
        if magic != MAGIC:
            raise ValueError(f"{path}: not a PyTorch file of the pre-1.6 format")
        reader = _StateDictUnpickler(file)
        views = reader.load()
        storages = {key: _read_storage(file, reader.dtypes[key], path) for key in _StateDictUnpickler(file).load()}
    return {name: _materialise(view, storages) for name, view in views.items() if isinstance(view, _View)}


def _read_storage(file: BinaryIO, dtype: np.dtype, path: Path) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    raw = file.read(count * dtype.itemsize)
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"{path}: truncated: a storage of {count} values ends early")
    return np.frombuffer(raw, dtype)


def _materialise(view: _View, storages: dict[str, np.ndarray]) -> np.ndarray:
    storage = storages[view.storage]
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if (
        min(view.shape, default=1) < 1
        or min(view.strides, default=0) < 0
        or not 0 <= view.offset <= last < storage.size
    ):
        raise ValueError(f"a tensor of shape {view.shape} reaches outside its storage of {storage.size} values")
    strides = [stride * storage.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()
