"""Settings of one experiment as frozen dataclasses, one section per stage.

The comments of the fields are the reference of all settings. pipeline.load_settings reads them from a TOML file.
"""

import dataclasses
from pathlib import Path
from typing import Any

from pipeline import paths
from pipeline.recorded_weights import recorded_weights


@dataclasses.dataclass(frozen=True)
class PhantomSettings:
    """The synthetic contest that `input.phantom` generates."""

    name: str = "phantom"  # of the data set, in tables and reports
    seed: int = 2020
    train_exams: int = 240
    test_exams: int = 120
    difficulty: str = "easy"  # easy | medium | contest
    positive_share: float = 0.5  # share of exams with PE (0.304 in the real contest)
    rows: int = 224  # pixels per side; the field of view is random per exam
    slices: int = 44  # mean number of slices per exam


@dataclasses.dataclass(frozen=True)
class InputSettings:
    """The contest tree that is read, and how exams are split into folds."""

    data: str = ""  # a contest tree; empty: the synthetic contest
    folds: int = 3
    fold_seed: int = 7


@dataclasses.dataclass(frozen=True)
class FeaturesSettings:
    """The pixel store. A change repeats the ingest; windows belong to [models] and do not."""

    spacing_mm: float = 1.4  # in-plane spacing of the store
    margin_mm: float = 10.0  # around the lungs
    max_box_mm: float = 420.0  # a larger lung box is clipped about its centre


@dataclasses.dataclass(frozen=True)
class ExamNetworkSettings:
    """The networks over all slices of an exam, [models.exam]; their inputs are the slice networks' embeddings."""

    kinds: tuple[str, ...] = ()  # gru | transformer: one network of each kind per (backbone, fold)
    backbones: tuple[str, ...] = ()  # whose embeddings they read; empty: those of every backbone
    seed: int = 19
    step_mm: float = 5.0  # distance between positions along z
    length: int = 64  # number of positions; a longer exam gets wider steps
    units: int = 48
    dropout: float = 0.3
    noise: float = 0.3  # standard deviation of the noise added to the standardised inputs
    epochs: int = 30
    batch: int = 16
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2


#: Fields of [models] that say how jobs run, or which jobs there are; they cannot differ per backbone.
FOR_ALL_BACKBONES = ("backbones", "workers", "per_backbone", "exam")


@dataclasses.dataclass(frozen=True)
class ModelsSettings:
    """Backbones, their input and their training."""

    backbones: tuple[str, ...] = ("efficientnet_lite0", "mobilenetv2")
    weights: str = "imagenet"  # imagenet | none | weights.npz of a run with the same backbone and number of windows
    height: int = 112  # pixels of the network's input
    width: int = 144
    pixel_mm: float = 1.4  # of the input, about the lung box's centre; 0: the whole box, shrunk to fit
    windows: tuple[str, ...] = ("pe",)  # names of features.windows.WINDOWS; each gives three channels
    trainable_windows: bool = False  # learn level and width of the windows, on HU; `windows` gives the start values
    artery_hu: float = 0.0  # scale every exam's HU above 0 so that its pulmonary arteries get this value; 0: unchanged
    neighbour_mm: float = 5.0  # distance of the neighbouring slices in the 2.5-D stack; 0: the slice itself, repeated
    used_share: float = 1.0  # share of the backbone's layers, from the input on, that is used; the rest is left out
    frozen_share: float = 0.24  # share of all its layers, from the input on, that keeps its pretrained weights
    # The backbone normalises with statistics measured once, before the first epoch: faster, and fit for small batches.
    fixed_statistics: bool = False
    unfreeze_epoch: int = 0  # train all layers from this epoch on (the first is 1); 0: frozen_share applies throughout
    pooling: str = "avgmax"  # avgmax (average and maximum, concatenated) | gem (generalised mean with learned power)
    embedding: int = 64
    dropout: float = 0.2
    seed: int = 17
    epochs: int = 5
    epoch_slices: int = 2800  # slices sampled per epoch
    batch: int = 32  # at 16 slices and twice the rate the networks learn no location (docs/results.md)
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    accumulate: int = 1  # batches whose gradients are averaged per step: a larger batch without its memory
    ema: float = 0.0  # decay of the moving average of the weights used to predict, e.g. 0.99; 0: use the last weights
    inner_share: float = 0.0  # share of the training exams set aside to choose the epoch; never the held-out fold
    patience: int = 2  # stop after so many epochs without a lower inner loss; needs inner_share
    mask_supervision: bool = True  # train the clot map on clot masks where a training exam has one (docs/contest.md)
    map_weight: float = 1.0  # loss weight of the clot map (slice label: 1)
    auxiliary_weight: float = 0.2  # loss weight of each exam label (slice label: 1); 0: the slice label alone
    q_weighting: bool = False  # weight the slice label's loss by its exam's q (share of positive slices), as the metric
    sampling: str = "shares"  # shares (the next two settings) | uniform (all slices of all exams alike)
    positive_share: float = 0.5  # of the sampled slices: slices with PE
    negative_exam_share: float = 0.25  # of the sampled slices: slices of exams without PE; 0: exams with PE only
    augmentation: float = 1.0  # strength of geometric changes, HU jitter, noise and cutout; 0: flips only
    cutout: float = 0.2  # share of views in which a rectangle, a quarter of each side long, is replaced by air
    # auto: float32 on a CPU unless bfloat16 is faster there; mixed bfloat16 on GPUs that support it, else float16
    precision: str = "auto"  # auto | float32 | mixed_bfloat16 | mixed_float16
    # The next two affect prediction only, but belong to the identity of a run: a change trains again.
    flip_tta: bool = True  # average the predictions of a slice and of its mirror image
    engine: str = "auto"  # auto | keras | openvino; auto: OpenVINO with TensorFlow on a CPU, else Keras
    workers: int = 0  # parallel training jobs; 0: one per GPU, or one per core without a GPU
    # Values that differ per backbone: [models.per_backbone.efficientnet_lite0] learning_rate = 2e-3
    per_backbone: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    exam: ExamNetworkSettings = ExamNetworkSettings()

    def of(self, backbone: str) -> "ModelsSettings":
        """The settings of one backbone, `per_backbone` resolved."""
        return dataclasses.replace(self, **{**self.per_backbone.get(backbone, {}), "per_backbone": {}})

    @property
    def channels(self) -> int:
        """Number of input channels: previous, current and next slice in every window."""
        return 3 * len(self.windows)


@dataclasses.dataclass(frozen=True)
class EnsembleSettings:
    """The second level: logistic regressions and LightGBM on out-of-fold predictions."""

    seed: int = 29
    ridge: float = 0.5  # penalty of the logistic regressions, on standardised columns
    wide_ridge: float = 10.0  # the same for the regression with the strongest columns added
    wide_columns: int = 16  # number of those columns
    threads: int = 2  # of LightGBM on large tables, else fits at a time; fixed, because sums depend on it
    inner_folds: int = 4  # folds of the inner cross-validation that chooses the number of trees
    bags: int = 4  # fits of the trees, each with its own inner folds and seed; their mean is used
    features: int = 80  # columns available to the exam trees (or a tenth of the number of exams, if that is more)
    exam_leaves: int = 2  # stumps: with few exams there is little evidence for interactions
    exam_min_data: int = 12  # exams per leaf
    exam_rate: float = 0.04
    exam_rounds: int = 160  # maximum
    slice_leaves: int = 8
    slice_min_data: int = 100  # slices per leaf
    slice_rate: float = 0.05
    slice_rounds: int = 200  # maximum
    bootstrap: int = 1000  # resamples of exams that decide whether a more complex candidate is promoted


@dataclasses.dataclass(frozen=True)
class EvidenceSettings:
    """The evidence report, [inference.evidence]: which test exams it shows, and its maximum size."""

    riskiest: int = 20  # number of test exams with the highest P(PE)
    random: int = 10  # number of other test exams, chosen at random
    seed: int = 37
    mapped_slices: int = 3  # likeliest slices per exam that show the clot map, besides the findings' key slices
    megabytes: float = 40.0  # of all pictures; above it, slices other than key slices are shrunk, then left out


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
class TrackingSettings:
    """Where results are reported besides the experiment's folder; not a part of the recipe."""

    mlflow: str = ""  # a folder or an MLflow tracking URI; empty: none


@dataclasses.dataclass(frozen=True)
class Settings:
    """The resolved settings of one run: one section per stage, and tracking."""

    phantom: PhantomSettings = PhantomSettings()
    input: InputSettings = InputSettings()
    features: FeaturesSettings = FeaturesSettings()
    models: ModelsSettings = ModelsSettings()
    ensemble: EnsembleSettings = EnsembleSettings()
    submissions: SubmissionsSettings = SubmissionsSettings()
    inference: InferenceSettings = InferenceSettings()
    tracking: TrackingSettings = TrackingSettings()

    @property
    def data_root(self) -> Path:
        """The contest tree that is read: the user's, or the synthetic one."""
        return Path(self.input.data).expanduser().resolve() if self.input.data else paths.raw()

    @property
    def is_phantom(self) -> bool:
        """Whether the synthetic contest is used."""
        return not self.input.data

    def as_dict(self) -> dict[str, Any]:
        """Plain values of the recipe for JSON, without [tracking], which no result depends on."""
        values = dataclasses.asdict(self)
        del values["tracking"]
        return values

    def without_paths(self) -> dict[str, Any]:
        """Plain values for submissions, reports and exports, without the paths of the data and of weights."""
        values = self.as_dict()
        values["input"]["data"] = ""
        for table in (values["models"], *values["models"]["per_backbone"].values()):
            if "weights" in table:
                table["weights"] = recorded_weights(table["weights"])
        return values


#: Setting -> lowest and highest valid value, both included. The settings of [models] that can differ per backbone are
#: checked by models.check_recipe, those of [phantom] by the generator.
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
    "ensemble.bags": (1, 1000),
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
