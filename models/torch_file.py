"""Reader of PyTorch state dicts, without PyTorch and without executing code from the file.

Supports the layout that `torch.save` wrote before version 1.6: five pickles (magic number, protocol, system
information, the state dict, the keys of the storages), followed by the storages, each as an element count (int64) and
raw little-endian values. The unpickler accepts only the names needed for tensors and rejects every other one, so a
tampered file can raise an exception but cannot execute code.
"""

import collections
import pickle
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C
DTYPES: dict[str, np.dtype] = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "LongStorage": np.dtype("<i8"),
}


class _View(NamedTuple):
    """A tensor as the pickle describes it: a strided view of a storage that follows later."""

    storage: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _view(storage: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _View:
    return _View(storage, offset, tuple(shape), tuple(strides))


class _StateDictUnpickler(pickle.Unpickler):
    """Accepts ordered dicts, tensors and the storages in `DTYPES`; rejects everything else."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.dtypes: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a name in the stream.

        Raises:
            pickle.UnpicklingError: The name is not that of a tensor, of a tensor type or of OrderedDict.
        """
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _view
        if module == "torch" and name in DTYPES:
            return name
        raise pickle.UnpicklingError(f"refused to load {module}.{name}. Expected tensors and OrderedDict only.")

    def persistent_load(self, pid: Any) -> str:
        """Return the key of a storage, whose bytes follow the pickles, and record its type.

        Raises:
            pickle.UnpicklingError: The object is not a storage.
        """
        kind, storage_type, key, _location, _elements, *_ = pid
        if kind != "storage":
            raise pickle.UnpicklingError(f"refused a persistent object of kind {kind!r}. Expected a storage.")
        self.dtypes[key] = DTYPES[storage_type]
        return key


def read_state_dict(path: Path) -> dict[str, np.ndarray]:
    """Read a state dict in the format before PyTorch 1.6.

    Returns:
        Name -> array in torch's axis order.

    Raises:
        ValueError: The file has another format, or is truncated.
        pickle.UnpicklingError: The file refers to anything but tensors.
    """
    with path.open("rb") as file:
        magic, _protocol, _system = (_StateDictUnpickler(file).load() for _ in range(3))
        if magic != MAGIC:
            raise ValueError(f"not a PyTorch file in the format before 1.6: {path}")
        reader = _StateDictUnpickler(file)
        views = reader.load()
        storages = {key: _read_storage(file, reader.dtypes[key], path) for key in _StateDictUnpickler(file).load()}
    return {name: _materialise(view, storages) for name, view in views.items() if isinstance(view, _View)}


def _read_storage(file: BinaryIO, dtype: np.dtype, path: Path) -> np.ndarray:
    count = int.from_bytes(file.read(8), "little")
    raw = file.read(count * dtype.itemsize)
    if len(raw) != count * dtype.itemsize:
        raise ValueError(f"truncated file: {path}. Expected a storage of {count} values, got {len(raw)} bytes.")
    return np.frombuffer(raw, dtype)


def _materialise(view: _View, storages: dict[str, np.ndarray]) -> np.ndarray:
    storage = storages[view.storage]
    last = view.offset + sum((size - 1) * stride for size, stride in zip(view.shape, view.strides, strict=True))
    if (
        min(view.shape, default=1) < 1
        or min(view.strides, default=0) < 0
        or not 0 <= view.offset <= last < storage.size
    ):
        raise ValueError(f"a tensor of shape {view.shape} exceeds its storage of {storage.size} values")
    strides = [stride * storage.itemsize for stride in view.strides]
    return np.lib.stride_tricks.as_strided(storage[view.offset :], view.shape, strides).copy()
