"""The ways in which the contest's DICOM files differ from one another, drawn exam by exam."""

from dataclasses import dataclass

import numpy as np
from pydicom.uid import UID, ExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGLosslessSV1

#: Transfer syntaxes and their shares, from a sample of 40 exams of the contest.
SYNTAXES = ((ImplicitVRLittleEndian, 0.70), (ExplicitVRLittleEndian, 0.22), (JPEGLosslessSV1, 0.08))

#: Patient position, sign of the row and of the column direction, share. Row +1: columns run to the patient's left.
POSITIONS = (
    ("HFS", 1, 1, 0.76),
    ("FFS", 1, 1, 0.10),  # re-sorted by the scanner into the usual display
    ("FFS", -1, 1, 0.05),  # stored as acquired: mirrored, only the orientation tells left from right
    ("HFS", -1, 1, 0.05),
)  # fmt: skip
PRONE_POSITIONS = (("HFP", -1, -1, 0.6), ("FFP", 1, -1, 0.4))


@dataclass(frozen=True)
class Quirks:
    """How one exam is stored."""

    syntax: UID
    signed: bool
    slope: float
    intercept: float
    padding: int | None  # HU outside the reconstruction circle; None: the corners hold air
    position: str
    row_sign: int
    column_sign: int
    reversed_numbers: bool
    first_number: int


def draw_quirks(rng: np.random.Generator, *, prone: bool) -> Quirks:
    """Draw the storage of one exam; independent of its labels."""
    syntax = SYNTAXES[rng.choice(len(SYNTAXES), p=[share for _, share in SYNTAXES])][0]
    kind = rng.random()
    # Signed with -1024 is the commonest; unsigned cannot hold a padding below -1024.
    signed, intercept = (True, -1024.0) if kind < 0.55 else (False, -1024.0) if kind < 0.8 else (True, 0.0)
    table = PRONE_POSITIONS if prone else POSITIONS
    shares = np.array([row[3] for row in table])
    position, row_sign, column_sign, _ = table[rng.choice(len(table), p=shares / shares.sum())]
    padded = rng.random() < 0.7
    return Quirks(
        syntax, signed, 1.0, intercept, -2000 if padded else None, position, row_sign, column_sign,
        bool(rng.random() < 0.3), int(rng.choice([1, 1, 1, 2, 301])),
    )  # fmt: skip
