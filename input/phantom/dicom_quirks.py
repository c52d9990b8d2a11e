"""How the DICOM files of the contest differ from exam to exam: syntax, pixel encoding, orientation, numbering."""

from dataclasses import dataclass

import numpy as np
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

#: Transfer syntaxes and their shares in a sample of 40 exams of the contest.
SYNTAXES = ((ImplicitVRLittleEndian, 0.70), (ExplicitVRLittleEndian, 0.22), (JPEGLosslessSV1, 0.08))

#: Patient position, sign of the row and of the column direction, share. Row +1: columns run to the patient's left.
POSITIONS = (
    ("HFS", 1, 1, 0.76),
    ("FFS", 1, 1, 0.10),  # reordered by the scanner into the usual display
    ("FFS", -1, 1, 0.05),  # stored as acquired: mirrored, so only the orientation distinguishes left from right
    ("HFS", -1, 1, 0.05),
)  # fmt: skip
PRONE_POSITIONS = (("HFP", -1, -1, 0.6), ("FFP", 1, -1, 0.4))


@dataclass(frozen=True)
class Quirks:
    """How the files of one exam are stored."""

    syntax: UID
    signed: bool
    slope: float
    intercept: float
    padding: int | None  # HU outside the reconstruction circle; None: no padding, the corners are air
    position: str
    row_sign: int
    column_sign: int
    reversed_numbers: bool  # InstanceNumber falls with z
    first_number: int  # lowest InstanceNumber


def sample_quirks(rng: np.random.Generator, *, prone: bool) -> Quirks:
    """Sample the storage of one exam, independently of its labels; `prone` selects the prone positions."""
    syntax = SYNTAXES[rng.choice(len(SYNTAXES), p=[share for _, share in SYNTAXES])][0]
    encoding = rng.random()
    # Signed with intercept -1024 is the most common; unsigned values cannot encode padding below -1024.
    signed, intercept = (True, -1024.0) if encoding < 0.55 else (False, -1024.0) if encoding < 0.8 else (True, 0.0)
    table = PRONE_POSITIONS if prone else POSITIONS
    shares = np.array([row[3] for row in table])
    position, row_sign, column_sign, _ = table[rng.choice(len(table), p=shares / shares.sum())]
    padded = rng.random() < 0.7
    return Quirks(
        syntax, signed, 1.0, intercept, -2000 if padded else None, position, row_sign, column_sign,
        bool(rng.random() < 0.3), int(rng.choice([1, 1, 1, 2, 301])),
    )  # fmt: skip
