"""Settings: one TOML file an experiment becomes immutable dataclasses, a section a stage.

A misspelt key is refused, with the names that come nearest; `section.key=value` overrides from the
command line are parsed as TOML values. The field comments are the reference of every setting.
"""

import dataclasses
import difflib
import hashlib
import re
import tomllib
import types
import typing
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.errors import UserError


@dataclasses.dataclass(frozen=True)
class PhantomSettings:
    """The contest that `input.phantom` draws."""

    name: str = "phantom"  # folder under input/raw
    seed: int = 2020
    train_exams: int = 240
    test_exams: int = 120
    difficulty: str = "easy"  # easy | medium | contest
    positive_share: float = 0.5  # share of exams with PE (the contest's own: 0.304)
    rows: int = 224  # pixels a side; the field of view is drawn per exam
    slices: int = 44  # mean number of slices an exam


@dataclasses.dataclass(frozen=True)
class InputSettings:
    """Which contest is read, and how exams are split."""

    data: str = ""  # a contest tree; empty: the phantom's
    folds: int = 3
    fold_seed: int = 7


@dataclasses.dataclass(frozen=True)
class FeaturesSettings:
    """The pixel store. Changing one of these re-ingests; windows do not (they belong to models)."""

    spacing_mm: float = 1.4  # in-plane spacing of the store
    margin_mm: float = 10.0  # around the lungs
    max_box_mm: float = 420.0  # a larger lung box is clipped about its centre


def exam_network_name(backbone: str, kind: str) -> str:
    """The name of the exam network of some kind over one backbone's slice network, in folders and tables."""
    return f"{backbone}_{kind}"


@dataclasses.dataclass(frozen=True)
class ExamNetworkSettings:
    """The networks over an exam's slices, [models.exam]; they read the slice networks' embeddings."""

    kinds: tuple[str, ...] = ()  # gru | transformer: one network of each kind a (backbone, fold)
    backbones: tuple[str, ...] = ()  # whose embeddings they read; empty: those of every backbone
    seed: int = 19
    step_mm: float = 5.0  # distance of the positions along z
    length: int = 64  # positions; a longer exam gets wider steps
    units: int = 48
    dropout: float = 0.3
    noise: float = 0.3  # standard deviation added to the standardised inputs
    epochs: int = 30
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2


#: Ways from a feature map to one vector, models.pooling.
POOLINGS = ("avgmax", "gem")

#: Fields of [models] that say how jobs run, or which there are; a backbone has none of its own.
FOR_ALL_BACKBONES = ("backbones", "workers", "per_backbone", "exam")


@dataclasses.dataclass(frozen=True)
class ModelsSettings:
    """Backbones, the slices that they see, and their training."""

    backbones: tuple[str, ...] = ("efficientnet_lite0", "mobilenetv2")
    weights: str = "imagenet"  # imagenet | none | the weights.npz of a run of the same backbone and as many windows
    height: int = 112  # pixels of the network's input
    width: int = 144
    pixel_mm: float = 1.4  # of the input, about the lung box's centre; 0: the whole box, shrunk to fit
    windows: tuple[str, ...] = ("pe",)  # names of features.windows.WINDOWS; each gives three channels
    trainable_windows: bool = False  # `windows` is where they start; the network learns level and width, on HU
    neighbour_mm: float = 5.0  # distance of the neighbouring slices in the 2.5-D stack; 0: the slice itself, thrice
    frozen_share: float = 0.24  # of the backbone's layers, from the first on, that keep their pretrained weights
    unfreeze_epoch: int = 0  # from this epoch on (1 is the first) every layer learns; 0: frozen_share holds to the end
    pooling: str = "avgmax"  # avgmax (average and maximum, side by side) | gem (generalised mean, its power learned)
    embedding: int = 64
    dropout: float = 0.2
    seed: int = 17
    epochs: int = 5
    epoch_slices: int = 2800  # slices drawn an epoch
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    accumulate: int = 1  # batches whose gradients are averaged before a step; memory of one, gradient of all
    ema: float = 0.0  # decay of the moving average of the weights that predicts, e.g. 0.99; 0: the last weights predict
    inner_share: float = 0.0  # of the training exams, set aside to choose the epoch; the held-out fold is never asked
    patience: int = 2  # epochs without a lower inner loss after which training stops; needs inner_share
    auxiliary_weight: float = 0.2  # of each exam label beside the slice label's 1; 0: the slice label alone
    q_weighting: bool = False  # the slice label's loss counts with q of its exam, as in the metric
    sampling: str = "shares"  # shares (the next two settings) | uniform (every slice of every exam alike)
    positive_share: float = 0.5  # of drawn slices: slices with PE
    negative_exam_share: float = 0.25  # of drawn slices: slices of exams without PE; 0: exams with PE only
    augmentation: float = 1.0  # strength of moves, HU jitter, noise and cutout; 0 leaves only the flip
    cutout: float = 0.2  # share of views that lose a rectangle, a quarter of each side long, to air
    # auto: float32 on a CPU save what profits from bfloat16 there, mixed bfloat16 on GPUs that have it, else float16
    precision: str = "auto"  # auto | float32 | mixed_bfloat16 | mixed_float16
    # The next two say how a network predicts; they belong to its run all the same, so a change trains it anew.
    flip_tta: bool = True  # average the predictions of a slice and of its mirror image
    engine: str = "auto"  # auto | keras | openvino; auto: OpenVINO with TensorFlow on a CPU, else Keras
    workers: int = 0  # training jobs at a time; 0: one a GPU, without a GPU one a core
    # What differs for a backbone, a table each: [models.per_backbone.efficientnet_lite0] learning_rate = 2e-3
    per_backbone: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    exam: ExamNetworkSettings = ExamNetworkSettings()

    def of(self, backbone: str) -> "ModelsSettings":
        """The settings of one backbone, `per_backbone` resolved."""
        return dataclasses.replace(self, **{**self.per_backbone.get(backbone, {}), "per_backbone": {}})

    @property
    def networks(self) -> tuple[str, ...]:
        """Names of all networks whose predictions the ensemble reads: slice networks, then exam networks."""
        over = [name for kind in self.exam.kinds for name in self.exam_networks(kind)]
        return (*self.backbones, *over)

    def exam_networks(self, kind: str) -> tuple[str, ...]:
        """Names of the exam networks of one kind, one a backbone that is read."""
        return tuple(exam_network_name(each, kind) for each in self.backbones if kind in self.exam_kinds(each))

    def exam_kinds(self, backbone: str) -> tuple[str, ...]:
        """Kinds of the exam networks that read one backbone's embeddings."""
        return self.exam.kinds if backbone in (self.exam.backbones or self.backbones) else ()

    @property
    def channels(self) -> int:
        """Input channels: previous, current and next slice in every window."""
        return 3 * len(self.windows)


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """The second level."""

    seed: int = 29
    ridge: float = 0.5  # penalty of the logistic regressions, on standardised columns
    wide_ridge: float = 10.0  # the same where the strongest columns are added
    wide_columns: int = 16  # how many of them
    threads: int = 2  # of LightGBM on large tables, small ones use one; not the machine's cores: sums depend on it
    inner_folds: int = 4  # exams are split so often to choose the number of trees
    features: int = 80  # columns that an exam's trees may use (a tenth of the exams where that is more)
    exam_leaves: int = 2  # stumps: few exams carry few interactions
    exam_min_data: int = 12  # exams in a leaf
    exam_rate: float = 0.04
    exam_rounds: int = 160  # at most
    slice_leaves: int = 8
    slice_min_data: int = 100  # slices in a leaf
    slice_rate: float = 0.05
    slice_rounds: int = 200  # at most
    weighted: bool = False  # one more candidate: weights and a calibration a label, chosen on out-of-fold rows
    bootstrap: int = 1000  # resamples of exams when a richer candidate asks for promotion


@dataclasses.dataclass(frozen=True)
class EvidenceSettings:
    """The evidence report, [inference.evidence]: which test exams it shows, and how large it may get."""

    riskiest: int = 20  # the test exams with the highest P(PE)
    random: int = 10  # of the other test exams, drawn
    seed: int = 37
    mapped_slices: int = 3  # of a run's exam, its likeliest key slices, that get a map (predict: its places')
    # A map costs every network that is asked some sixty passes. Where slices times networks exceed this number, the
    # likeliest slice of the riskiest exams is mapped, by one fold's networks, as far as the number goes.
    most_maps: int = 60
    megabytes: float = 40.0  # for all pictures; above it, slices that are no key slices shrink, then become fewer


@dataclasses.dataclass(frozen=True)
class SubmissionsSettings:
    """Scores and reports."""

    bootstrap: int = 1000  # resamples of exams
    seed: int = 31


@dataclasses.dataclass(frozen=True)
class InferenceSettings:
    """Reports on exams."""

    evidence: EvidenceSettings = EvidenceSettings()


@dataclasses.dataclass(frozen=True)
class Settings:
    """The resolved settings of one run, a section a stage."""

    phantom: PhantomSettings = PhantomSettings()
    input: InputSettings = InputSettings()
    features: FeaturesSettings = FeaturesSettings()
    models: ModelsSettings = ModelsSettings()
    ensemble: EnsembleSettings = EnsembleSettings()
    submissions: SubmissionsSettings = SubmissionsSettings()
    inference: InferenceSettings = InferenceSettings()

    @property
    def data_root(self) -> Path:
        """The contest tree that is read: the user's, or the phantom's."""
        return Path(self.input.data).expanduser().resolve() if self.input.data else paths.raw(self.phantom.name)

    @property
    def is_phantom(self) -> bool:
        """Whether the embedded contest is used."""
        return not self.input.data

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return dataclasses.asdict(self)

    def without_place(self) -> dict[str, Any]:
        """The same for files that leave the house: the paths of the data and of weights stay behind."""
        values = self.as_dict()
        values["input"]["data"] = ""
        for each in (values["models"], *values["models"]["per_backbone"].values()):
            if "weights" in each:
                each["weights"] = told_weights(each["weights"])
        return values


#: Setting -> lowest and highest value, ends included, with which its stage can work. Those of [models] that may differ
#: for a backbone are checked by models.check_recipe, and those of [phantom] where it is drawn.
RANGES = {
    "input.folds": (2, 50),
    "features.spacing_mm": (0.2, 5),
    "features.margin_mm": (0, 200),
    "features.max_box_mm": (50, 1000),
    "models.exam.step_mm": (0.1, 100),
    "models.exam.length": (2, 4096),
    "models.exam.units": (1, 4096),
    "models.exam.dropout": (0, 0.95),
    "models.exam.noise": (0, 10),
    "models.exam.epochs": (1, 10_000),
    "models.exam.batch": (1, 10_000),
    "models.exam.learning_rate": (1e-8, 1),
    "ensemble.ridge": (0, 1e6),
    "ensemble.wide_ridge": (0, 1e6),
    "ensemble.wide_columns": (0, 10_000),
    "ensemble.threads": (1, 1024),
    "ensemble.inner_folds": (2, 50),
    "ensemble.features": (1, 100_000),
    "ensemble.exam_leaves": (2, 4096),
    "ensemble.exam_min_data": (1, 1_000_000),
    "ensemble.exam_rate": (1e-4, 1),
    "ensemble.exam_rounds": (0, 100_000),
    "ensemble.slice_leaves": (2, 4096),
    "ensemble.slice_min_data": (1, 10_000_000),
    "ensemble.slice_rate": (1e-4, 1),
    "ensemble.slice_rounds": (0, 100_000),
    "ensemble.bootstrap": (1, 1_000_000),
    "submissions.bootstrap": (1, 1_000_000),
}


def told_weights(weights: str) -> str:
    """The setting models.weights as products tell it: a file by its name and sha256, never by its place.

    Another file at the same path is thus another start. What this function has told is told again as it is: a packed
    run, whose weights file stayed behind, is recognised by it.
    """
    if weights in ("imagenet", "none") or re.fullmatch(r"[^/]+ sha256:[0-9a-f]{16}", weights):
        return weights
    file = Path(weights).expanduser()
    if not file.is_file():
        return f"{file.name} (not there)"
    state = file.stat()
    return f"{file.name} sha256:{_digest(file, state.st_mtime_ns, state.st_size)[:16]}"


@lru_cache
def _digest(file: Path, _mtime_ns: int, _size: int) -> str:
    """Of a file in this state: every network's identity asks for it, and it may hold hundreds of megabytes."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def load_settings(file: str | Path, *, overrides: list[str] = (), data: str | None = None) -> Settings:
    """Read a settings file, apply overrides, and report all faults at once.

    Args:
        file: a TOML file; a relative path is looked up in the working directory, then the checkout.
        overrides: `section.key=value` texts; value is TOML, or a bare word taken as a string.
        data: shorthand for `input.data`.

    Raises:
        UserError: missing file, bad TOML, unknown or ill-typed keys.
    """
    path = Path(file)
    if not path.is_file():
        path = paths.CHECKOUT / file
    if not path.is_file():
        known = ", ".join(sorted(each.name for each in (paths.CHECKOUT / "settings").glob("*.toml")))
        raise UserError(f"settings file not found: {file}; the checkout has settings/: {known}")
    try:
        values = tomllib.loads(path.read_text())
    except tomllib.TOMLDecodeError as fault:
        raise UserError(f"{file}: not valid TOML: {fault}") from fault
    faults: list[str] = []
    for override in overrides:
        _apply_override(values, override, faults)
    if data:
        values.setdefault("input", {})["data"] = data
    settings = _build(Settings, values, "", faults)
    for name, differing in _tables(values, "models", "per_backbone").items():
        prefix = f"models.per_backbone.{name}."
        faults += [f"{prefix}{key}: is the same for all" for key in differing if key in FOR_ALL_BACKBONES]
        checked = _build(ModelsSettings, differing, prefix, faults)
        if checked:
            settings.models.per_backbone[name] = {key: getattr(checked, key) for key in differing}
    if not faults:
        faults += _out_of_range(settings)
    if faults:
        raise UserError.listing(f"{file}: unusable settings:", faults)
    return settings


def _out_of_range(settings: Settings) -> list[str]:
    """A line a number outside RANGES; what only makes sense together is checked by the stage that reads it."""
    faults = []
    for key, (low, high) in RANGES.items():
        value: Any = settings
        for name in key.split("."):
            value = getattr(value, name)
        if not low <= value <= high:
            faults.append(f"{key}: expected {low:g} to {high:g}, found {value!r}")
    return faults


def _tables(values: dict[str, Any], *names: str) -> dict[str, dict[str, Any]]:
    """The tables in a table of settings; empty where there is none."""
    for name in names:
        values = values.get(name, {}) if isinstance(values, dict) else {}
    return {key: value for key, value in values.items() if isinstance(value, dict)} if isinstance(values, dict) else {}


def _apply_override(values: dict[str, Any], override: str, faults: list[str]) -> None:
    key, separator, text = override.partition("=")
    section, dot, name = key.strip().partition(".")
    if not separator or not dot:
        faults.append(f"--set {override}: expected section.key=value")
        return
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    target: Any = values.setdefault(section, {})
    *parents, leaf = name.split(".")
    for parent in parents:
        target = target.setdefault(parent, {}) if isinstance(target, dict) else None
    if not isinstance(target, dict):
        faults.append(f"--set {override}: {key.strip().rpartition('.')[0]} is no table of settings")
        return
    target[leaf] = value


def _build(kind: type, values: dict[str, Any], prefix: str, faults: list[str]) -> Any:
    hints = typing.get_type_hints(kind)
    arguments = {}
    for key, value in values.items():
        if key not in hints:
            near = difflib.get_close_matches(key, hints, n=3) or sorted(hints)
            faults.append(f"{prefix}{key}: unknown; nearest: {', '.join(near)}")
        elif dataclasses.is_dataclass(hints[key]):
            if isinstance(value, dict):
                arguments[key] = _build(hints[key], value, f"{prefix}{key}.", faults)
            else:
                faults.append(f"{prefix}{key}: expected a table, found {value!r}")
        else:
            arguments[key] = _convert(value, hints[key], f"{prefix}{key}", faults)
    return kind(**arguments) if not faults else None


def _convert(value: Any, hint: Any, key: str, faults: list[str]) -> Any:
    """Check a TOML value against a field's type; lists become tuples, int passes for float."""
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin is tuple:
        inner = typing.get_args(hint)[0]
        if isinstance(value, list):
            return tuple(_convert(each, inner, key, faults) for each in value)
    elif origin is dict:
        inner = typing.get_args(hint)[1]
        if isinstance(value, dict):
            return {name: _convert(each, inner, f"{key}.{name}", faults) for name, each in value.items()}
    elif isinstance(hint, types.UnionType):
        if isinstance(value, typing.get_args(hint)) and not isinstance(value, bool):
            return value
    elif hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    expected = getattr(hint, "__name__", str(hint)) if origin is None else str(hint)
    faults.append(f"{key}: expected {expected}, found {value!r}")
    return None
