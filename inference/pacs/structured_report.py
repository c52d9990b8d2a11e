"""The structured report of one exam: Comprehensive 3D SR, TID 1500 (PS3.16).

Measurement Report
    observer: this software, its version
    one measurement group per label: probability (DCM 122157, no units), present if above 0.5
    one measurement group with diameters and ratio, if the store has them
    one measurement group with the clot burden: volume in both lungs, left and right; occluded share of the arteries
    one measurement group per finding: site, probability, volume, point on its key slice
    one measurement group per key image: probability of PE on the slice, reference to the source image
    comments: research use only; whether the exam can be assessed, with reasons; identifiers that were replaced (see
    inference.pacs.source_header)

For the groups of findings and of the clot burden, see inference.pacs.finding_groups.

The document is complete and preliminary; its verification flag is UNVERIFIED, because no person has reviewed it.
"""

import dataclasses

from highdicom import UID
from highdicom.sr import (
    AlgorithmIdentification,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from inference.pacs import codes as dicom_codes
from inference.pacs.finding_groups import ReportedFinding, burden_group, finding_group, probability_measurement
from inference.pacs.source_header import valid_uid
from input.contest import EXAM_LABELS
from submissions.software_name import RESEARCH_USE_ONLY

SERIES_NUMBER = 9001
DESCRIPTION = "PE ensemble report (RESEARCH USE ONLY)"
_MeasurementGroup = MeasurementsAndQualitativeEvaluations | VolumetricROIMeasurementsAndQualitativeEvaluations


@dataclasses.dataclass(frozen=True)
class KeyImage:
    """A source slice that the report refers to.

    Attributes:
        header: with valid UIDs.
        z_mm: position.
        probability: of PE; None if it is withheld.
        frame: its number in a multi-frame object; 0: a slice of its own.
    """

    header: Dataset
    z_mm: float
    probability: float | None
    frame: int = 0


@dataclasses.dataclass(frozen=True)
class ReportContent:
    """The content of a report.

    Attributes:
        labels: contest label -> probability; empty if they are withheld.
        measured: column of the store's exam table -> value; measured columns only.
        key_images: the likeliest slices, likeliest first; at least one.
        burden: the clot burden, see `inference.pacs.finding_groups.clot_burden`; may be empty.
        occluded: see `inference.pacs.finding_groups.occluded_shares`; may be empty.
        findings: the findings to report, likeliest first; may be empty.
        comments: further text items.
        name, version, manufacturer: of the algorithm.
    """

    labels: dict[str, float]
    measured: dict[str, float]
    key_images: list[KeyImage]
    burden: dict[str, float]
    occluded: dict[str, float]
    findings: list[ReportedFinding]
    comments: list[str]
    name: str
    version: str
    manufacturer: str


def structured_report(content: ReportContent) -> Comprehensive3DSR:
    """Build the report as a DICOM object in a new series of the source's study."""
    algorithm = AlgorithmIdentification(content.name, content.version)
    groups: list[_MeasurementGroup] = [
        _label_group(label, content.labels[label], algorithm) for label in EXAM_LABELS if label in content.labels
    ]
    groups += _measured_groups(content.measured, algorithm)
    groups += [burden_group(content.burden, content.occluded, algorithm)] if content.burden else []
    groups += [finding_group(rank, finding, algorithm) for rank, finding in enumerate(content.findings, start=1)]
    groups += [_image_group(number, image, algorithm) for number, image in enumerate(content.key_images, start=1)]
    report = MeasurementReport(
        observation_context=_observer(content),
        procedure_reported=codes.SCT.ComputedTomography,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    report[0].ContentSequence.extend(_comment(text) for text in (RESEARCH_USE_ONLY, *content.comments))
    return Comprehensive3DSR(
        evidence=_evidence(content),
        content=report,
        series_instance_uid=UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=UID(),
        instance_number=1,
        manufacturer=content.manufacturer,
        manufacturer_model_name=content.name,
        software_versions=content.version,
        series_description=DESCRIPTION,
        is_complete=True,
        is_final=False,
        is_verified=False,
        coding_schemes=[dicom_codes.private_scheme()],
    )


def _evidence(content: ReportContent) -> list[Dataset]:
    """The headers of all images that the report refers to, each once."""
    headers = [image.header for image in content.key_images] + [finding.header for finding in content.findings]
    return list({header.SOPInstanceUID: header for header in headers}.values())


def _observer(content: ReportContent) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=valid_uid(f"{content.name} {content.version}"),
        name=content.name,
        manufacturer_name=content.manufacturer,
        model_name=content.version,
    )
    return ObservationContext(ObserverContext(codes.DCM.Device, device))


def _label_group(
    label: str, probability: float, algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    """A label's probability, and whether it is present; the nine decisions obey the contest's consistency rules."""
    presence = dicom_codes.PRESENT if probability > 0.5 else dicom_codes.ABSENT
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=UID(), identifier=label),
        finding_type=dicom_codes.FINDINGS[label],
        algorithm_id=algorithm,
        finding_sites=dicom_codes.finding_sites(label),
        measurements=[probability_measurement(probability)],
        qualitative_evaluations=[QualitativeEvaluation(dicom_codes.PRESENCE, presence)],
    )


def _measured_groups(
    measured: dict[str, float], algorithm: AlgorithmIdentification
) -> list[MeasurementsAndQualitativeEvaluations]:
    measurements = [
        Measurement(name, round(measured[column], 3), unit, finding_sites=[FindingSite(site)])
        for column, (name, unit, site) in dicom_codes.MEASUREMENTS.items()
        if column in measured
    ]
    if not measurements:
        return []
    tracking = TrackingIdentifier(uid=UID(), identifier="heart and great vessels")
    return [
        MeasurementsAndQualitativeEvaluations(
            tracking_identifier=tracking, algorithm_id=algorithm, measurements=measurements
        )
    ]


def _image_group(
    number: int, image: KeyImage, algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    frames = [image.frame] if image.frame else None
    source = SourceImageForMeasurementGroup(image.header.SOPClassUID, image.header.SOPInstanceUID, frames)
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=UID(), identifier=f"key image {number}, z {image.z_mm:.1f} mm"),
        finding_type=dicom_codes.PULMONARY_EMBOLISM,
        algorithm_id=algorithm,
        measurements=None if image.probability is None else [probability_measurement(image.probability)],
        source_images=[source],
    )


def _comment(text: str) -> TextContentItem:
    return TextContentItem(codes.DCM.Comment, text, relationship_type=RelationshipTypeValues.CONTAINS)
