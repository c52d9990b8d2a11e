"""One synthetic patient: body size, shape and lung disease, independent of the exam's labels.

Everything here is sampled before the clots and with the same distributions for exams with and without PE; the RV/LV
ratio (see `exam_generator`) is the only anatomical measure that depends on a label.
"""

from dataclasses import dataclass, field

import numpy as np

PRONE_SHARE = 0.04


@dataclass(frozen=True)
class Patient:
    """Dimensions in mm. `scale` maps the reference anatomy (a man of 175 cm) onto the patient, per axis."""

    scale: np.ndarray  # (3,) x, y, z
    shift: np.ndarray  # (3,) mm: position in the scanner
    fat: float  # subcutaneous thickness
    muscle: float  # 1 = average
    breast: float  # thickness of the breasts, close to 0 in men
    heart: float  # 1 = average size
    tilt: float  # extra rotation of the heart's axis, radians
    dome: float  # height of the diaphragm, mm above average
    kyphosis: float  # 0 = average; positive = deeper chest
    rib_phase: float  # 0-1: where along z the ribs start
    vessel: float  # scale of the vessel diameters
    prone: bool
    effusion: tuple[float, float]  # height of dependent pleural fluid, right and left; 0 = none
    opacities: np.ndarray  # (n, 5) patches in the lungs: x, y, z, radius, added density 0-1
    lung_hu: float
    lung_gradient: float  # HU from front to back of the lung
    emphysema: float  # 0-1
    jitter: np.random.Generator = field(compare=False, repr=False)  # moves control points of the anatomy


def sample_patient(rng: np.random.Generator, *, effusion_share: float, opacity_share: float) -> Patient:
    """Sample a patient.

    The generator is called in a fixed order, so that one outcome does not change the others.

    Args:
        rng: the exam's stream for the patient.
        effusion_share: probability of pleural fluid, 0-1.
        opacity_share: probability of patches of ground glass or consolidation, 0-1.
    """
    female = rng.random() < 0.5
    size = rng.normal(0.94 if female else 1.0, 0.04)
    scale = size * (1 + rng.normal(0, [0.04, 0.06, 0.05]))
    fluid = rng.random(2) * 30 * (rng.random() < effusion_share) * (rng.random(2) < 0.7)
    patches = rng.poisson(4) if rng.random() < opacity_share else 0
    opacities = np.column_stack(
        [
            rng.choice([-1, 1], 12) * rng.uniform(45, 105, 12),
            rng.uniform(-50, 75, 12),
            rng.uniform(-110, 70, 12),
            rng.uniform(8, 28, 12),
            rng.uniform(0.15, 0.8, 12),
        ]
    )[:patches]
    return Patient(
        scale=scale,
        shift=rng.normal(0, [6, 6, 0]) + np.array([0, 6.0, 0]),
        fat=float(np.clip(rng.lognormal(np.log(14), 0.5), 4, 42)),
        muscle=float(np.clip(rng.normal(0.85 if female else 1.05, 0.15), 0.5, 1.4)),
        breast=float(rng.uniform(8, 45)) if female else float(rng.uniform(0, 5)),
        heart=float(np.clip(rng.normal(1.0, 0.07), 0.85, 1.2)),
        tilt=float(rng.normal(0, 0.12)),
        dome=float(rng.normal(0, 10)),
        kyphosis=float(rng.normal(0, 6)),
        rib_phase=float(rng.random()),
        vessel=float(np.clip(rng.normal(1.0, 0.08), 0.82, 1.2)),
        prone=bool(rng.random() < PRONE_SHARE),
        effusion=(float(fluid[0]), float(fluid[1])),
        opacities=opacities,
        lung_hu=float(rng.normal(-850, 25)),
        lung_gradient=float(rng.uniform(40, 130)),
        emphysema=float(rng.random() ** 3),
        jitter=np.random.default_rng(rng.integers(2**63)),
    )


def to_patient(patient: Patient, points: list | np.ndarray) -> np.ndarray:
    """Map reference points (n, 3) to patient coordinates, mm."""
    return np.asarray(points, float) * patient.scale + patient.shift


def jittered(patient: Patient, points: list | np.ndarray, sd: float = 1.5) -> np.ndarray:
    """Map reference points to patient coordinates and displace them by `sd` mm, so that no two exams share anatomy."""
    mapped = to_patient(patient, points)
    return mapped + patient.jitter.normal(0, sd, mapped.shape)
