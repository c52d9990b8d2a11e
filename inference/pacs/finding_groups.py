"""Measurement groups of the structured report for findings and for the clot burden.

One group per finding: TID 1411 (Volumetric ROI), because its measurement is a volume. Its region is the finding's key
point on the key slice: a POINT of value type SCOORD with the purpose "representative point". The group therefore states
where the finding is, not its outline. Image coordinates need no frame of reference, which anonymised files may lack.

The clot burden is one group without a region (TID 1501): volume in both lungs, in the left and in the right one, and
the share of the arteries in each lung that clot occludes.

Volumes are expected values: the sum over the clot map of probability times volume. They differ from the volume of the
segmentation, which is cut off at a threshold.
"""

import dataclasses

import numpy as np
from highdicom import UID
from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    GraphicTypeValues,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    SourceImageForRegion,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset

from inference.clot_maps import ClotMap
from inference.findings import Finding
from inference.pacs import codes as dicom_codes

#: Decimals of volumes in ml, and of coordinates in pixels.
DECIMALS = 3


@dataclasses.dataclass(frozen=True)
class ReportedFinding:
    """A finding and its key slice.

    Attributes:
        finding: the finding.
        header: of its key slice, with valid UIDs.
        point: (column, row) of the key point in pixels of the key slice as transmitted; centres at whole numbers.
        frame: number of the key slice in a multi-frame object; 0: a slice of its own.
    """

    finding: Finding
    header: Dataset
    point: tuple[float, float]
    frame: int = 0


def clot_burden(clot: ClotMap) -> dict[str, float]:
    """The expected clot volume of an exam, ml: `both`, `left`, `right`; empty where it is unknown."""
    left, right = clot.side_volumes_ml()
    return {"both": left + right, "left": left, "right": right} if np.isfinite(left + right) else {}


def occluded_shares(clot: ClotMap) -> dict[str, float]:
    """Share of the arteries in the `left` and `right` lung that clot occludes, 0-1; only sides where it is known."""
    shares = dict(zip(("left", "right"), clot.occluded_shares(), strict=True))
    return {side: share for side, share in shares.items() if np.isfinite(share)}


def finding_group(
    rank: int, reported: ReportedFinding, algorithm: AlgorithmIdentification
) -> VolumetricROIMeasurementsAndQualitativeEvaluations:
    """The group of one finding.

    Args:
        rank: 1 for the likeliest finding of the exam.
        reported: the finding.
        algorithm: which found it.
    """
    finding, header = reported.finding, reported.header
    # In SCOORD, the centre of the first pixel is at (0.5, 0.5) (PS3.3 C.18.6).
    point = np.round(np.array([reported.point]) + 0.5, DECIMALS)
    frames = [reported.frame] if reported.frame else None
    source = SourceImageForRegion(header.SOPClassUID, header.SOPInstanceUID, frames)
    region = ImageRegion(GraphicTypeValues.POINT, point, source)
    measurements = [probability_measurement(finding.probability)]
    if np.isfinite(finding.volume_ml):
        measurements.append(_volume(finding.volume_ml))
    identifier = f"finding {rank}, z {finding.first_mm:.1f} to {finding.last_mm:.1f} mm"
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=UID(), identifier=identifier),
        referenced_regions=[region],
        finding_type=dicom_codes.PULMONARY_EMBOLISM,
        algorithm_id=algorithm,
        finding_sites=[_lung(finding.side, finding.depth)],
        measurements=measurements,
        geometric_purpose=dicom_codes.REPRESENTATIVE_POINT,
    )


def burden_group(
    burden: dict[str, float], occluded: dict[str, float], algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    """The group of an exam's clot burden.

    Args:
        burden: from `clot_burden`.
        occluded: from `occluded_shares`.
        algorithm: which measured it.
    """
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=UID(), identifier="clot burden"),
        finding_type=dicom_codes.PULMONARY_EMBOLISM,
        algorithm_id=algorithm,
        measurements=[
            *(_volume(volume, [_lung(side)]) for side, volume in burden.items()),
            *(_occluded(share, side) for side, share in occluded.items()),
        ],
    )


def probability_measurement(value: float) -> Measurement:
    """A probability as a measurement."""
    return Measurement(dicom_codes.PROBABILITY, round(float(value), 6), dicom_codes.NO_UNITS)


def _volume(millilitres: float, sites: list[FindingSite] | None = None) -> Measurement:
    value = round(float(millilitres), DECIMALS)
    return Measurement(dicom_codes.VOLUME, value, dicom_codes.MILLILITRE, finding_sites=sites)


def _occluded(share: float, side: str) -> Measurement:
    site = FindingSite(dicom_codes.PULMONARY_ARTERY, laterality=dicom_codes.LATERALITIES[side])
    return Measurement(dicom_codes.OCCLUDED, round(100 * share, 1), dicom_codes.PERCENT, finding_sites=[site])


def _lung(side: str, depth: str = "") -> FindingSite:
    return FindingSite(
        dicom_codes.LUNG,
        laterality=dicom_codes.LATERALITIES[side],
        topographical_modifier=dicom_codes.DEPTHS.get(depth),
    )
