"""The clot map of one exam as a DICOM segmentation (SEG) on the frames of the source series.

One segment, pulmonary embolism: the pixels with a clot probability of CONTOUR or more, the contour of the evidence
report. It is BINARY because several viewers and libraries, OHIF and dcmqi among them, do not read FRACTIONAL ones.
Frames are whole slices in the source's own orientation, one per slice with at least one such pixel.
"""

import cv2
import highdicom
import numpy as np
from highdicom.content import AlgorithmIdentificationSequence
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.dataset import Dataset

from features.store import StoredExam
from inference.clot_maps import ClotMap
from inference.evidence.slice_images import CONTOUR
from inference.pacs import codes as dicom_codes
from inference.pacs.source_geometry import stored_to_source
from inference.pacs.source_header import valid_uid
from submissions.software_name import RESEARCH_USE_ONLY

SERIES_NUMBER = 9003
DESCRIPTION = "PE ensemble segmentation (RESEARCH USE ONLY)"
LABEL = "pulmonary embolism (research use only)"
#: Orientations that differ by less are the same; header values are rounded.
SAME_ORIENTATION = 1e-3
#: Decimals of a position, mm.
POSITION_DECIMALS = 2


def clot_planes(clot: ClotMap) -> list[int]:
    """The planes of a clot map that have a cell of CONTOUR or more."""
    return np.flatnonzero(clot.probability.max(axis=(1, 2)) >= CONTOUR).tolist()


def source_mask(clot: ClotMap, plane: int, exam: StoredExam, header: Dataset) -> np.ndarray:
    """The clot of one plane on the pixels of its source image.

    Args:
        clot: the clot map.
        plane: index of the plane.
        exam: the stored exam.
        header: of the plane's source slice.

    Returns:
        bool (rows, columns) as transmitted; False outside the stored plane.
    """
    stored = clot.on_stored_plane(plane, exam.hu.shape[1:])
    probability = cv2.warpAffine(
        stored, stored_to_source(exam, header), (int(header.Columns), int(header.Rows)),
        flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT,
    )  # fmt: skip
    return probability >= CONTOUR


def geometry_fault(headers: list[Dataset]) -> str:
    """The reason why slices cannot be the frames of one segmentation; "" if they can."""
    orientations = np.array([header.ImageOrientationPatient for header in headers], float)
    positions = np.array([header.ImagePositionPatient for header in headers], float)
    if np.ptp(orientations, axis=0).max() > SAME_ORIENTATION:
        return "its slices differ in orientation"
    if len({header.get("FrameOfReferenceUID") for header in headers}) > 1:
        return "its slices differ in frame of reference"
    if len(np.unique(positions.round(POSITION_DECIMALS), axis=0)) < len(headers):
        return "two of its slices have the same position"
    return ""


def clot_segmentation(
    headers: list[Dataset],
    masks: list[np.ndarray],
    *,
    step_mm: float,
    name: str,
    version: str,
    manufacturer: str,
    comment: str = "",
) -> Segmentation:
    """Build the segmentation in a new series of the source's study.

    Args:
        headers: of the source slices, with valid UIDs and without a `geometry_fault`; at least one. Rounding
            differences of the orientation and missing attributes are fixed in place.
        masks: bool (rows, columns) of every slice, none empty.
        step_mm: distance of neighbouring slices, used where SliceThickness is missing; may be NaN.
        name, version, manufacturer: of the algorithm.
        comment: added to the segment's description.
    """
    for header in headers:
        header.ImageOrientationPatient = headers[0].ImageOrientationPatient
        if header.get("SliceThickness") is None and np.isfinite(step_mm):  # may be empty for CT, but not here
            header.SliceThickness = round(step_mm, 3)
        if not header.get("FrameOfReferenceUID"):  # mandatory for CT, but missing from some anonymised files
            header.FrameOfReferenceUID = valid_uid(f"frame of reference of {header.SeriesInstanceUID}")
    segment = SegmentDescription(
        segment_number=1,
        segment_label=LABEL,
        segmented_property_category=dicom_codes.SEGMENT_CATEGORY,
        segmented_property_type=dicom_codes.SEGMENT_TYPE,
        algorithm_type=SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=AlgorithmIdentificationSequence(
            name=name, family=dicom_codes.ALGORITHM_FAMILY, version=version
        ),
        anatomic_regions=[dicom_codes.SEGMENT_REGION],
    )
    threshold = f"Clot probability of {CONTOUR:g} or more."
    segment.SegmentDescription = " ".join(text for text in (threshold, RESEARCH_USE_ONLY, comment) if text)
    return Segmentation(
        source_images=headers,
        pixel_array=np.stack(masks),
        segmentation_type=SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer=manufacturer,
        manufacturer_model_name=name,
        software_versions=version,
        device_serial_number=version,
        content_label="PE",
        content_description=LABEL,
        series_description=DESCRIPTION,
    )
