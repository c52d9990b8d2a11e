"""The codes of the structured report and of the segmentation.

SNOMED CT (SCT), DICOM (DCM) and UCUM codes are used wherever one with the same meaning exists. Most come from pydicom's
dictionary; the others are

    SCT 706870000         Acute pulmonary embolism
    SCT 133971000119108   Chronic pulmonary embolism
    SCT 705057003         Presence
    UCUM ml               Millilitre

Labels of the contest without a public code have a code of the private scheme 99PEENSEMBLE, defined here:

    PE-NEGATIVE     the exam shows no pulmonary embolism and is of sufficient quality
    PE-INDET        the exam's quality is insufficient to decide whether there is pulmonary embolism
    PE-CENTRAL      pulmonary embolism in the pulmonary trunk or a main pulmonary artery
    PE-ACUTE-CHRON  pulmonary embolism, acute and chronic
    RVLV-GTE-1      pulmonary embolism, diameter of the right ventricle at least that of the left
    RVLV-LT-1       pulmonary embolism, diameter of the right ventricle below that of the left
    RVLV-RATIO      diameter of the right ventricle over that of the left (LOINC 59078-6 is its inverse)
    PA-OCCLUDED     share of the pulmonary arteries in a lung that clot occludes, by volume, without the main arteries

A file with such a code contains the identification of the scheme (PS3.3 C.12.1.1.7).
"""

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import FindingSite
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from input.contest import (
    ACUTE_AND_CHRONIC,
    CENTRAL,
    CHRONIC,
    GTE_1,
    INDETERMINATE,
    LEFT,
    LT_1,
    NEGATIVE,
    RIGHT,
)

SCHEME = "99PEENSEMBLE"
PROBABILITY = codes.DCM.Probability
NO_UNITS = codes.UCUM.NoUnits
PULMONARY_EMBOLISM = codes.SCT.PulmonaryEmbolism
PRESENCE = Code("705057003", "SCT", "Presence")
PRESENT, ABSENT = codes.SCT.Present, codes.SCT.Absent
VOLUME = codes.SCT.Volume
MILLILITRE = Code("ml", "UCUM", "Milliliter")
OCCLUDED = Code("PA-OCCLUDED", SCHEME, "Share of the pulmonary arteries in the lung occluded by clot")
PERCENT = codes.UCUM.Percent
LUNG = codes.SCT.Lung
PULMONARY_ARTERY = codes.SCT.PulmonaryArtery
#: Purpose of a finding's point (CID 219).
REPRESENTATIVE_POINT = codes.cid219.RepresentativePoint
#: Side of a finding or of a volume -> laterality (CID 244).
LATERALITIES: dict[str, Code] = {
    "left": codes.cid244.Left,
    "right": codes.cid244.Right,
    "both": codes.cid244.Bilateral,
}
#: Depth of a finding -> topographical modifier (CID 2).
DEPTHS: dict[str, Code] = {"central": codes.cid2.Central, "peripheral": codes.cid2.Peripheral}

#: Category (CID 7150) and type (CID 7159) of the segment, its anatomic region, and the algorithm's family (CID 7162).
SEGMENT_CATEGORY = codes.cid7150.MorphologicallyAbnormalStructure
SEGMENT_TYPE = codes.cid7159.Embolus
SEGMENT_REGION = PULMONARY_ARTERY
ALGORITHM_FAMILY = codes.cid7162.ArtificialIntelligence

#: Contest label -> the finding whose probability it is.
FINDINGS: dict[str, Code] = {
    NEGATIVE: Code("PE-NEGATIVE", SCHEME, "Negative exam for pulmonary embolism"),
    INDETERMINATE: Code("PE-INDET", SCHEME, "Exam indeterminate for pulmonary embolism"),
    GTE_1: Code("RVLV-GTE-1", SCHEME, "Pulmonary embolism with RV/LV diameter ratio of 1 or more"),
    LT_1: Code("RVLV-LT-1", SCHEME, "Pulmonary embolism with RV/LV diameter ratio below 1"),
    LEFT: PULMONARY_EMBOLISM,
    RIGHT: PULMONARY_EMBOLISM,
    CENTRAL: Code("PE-CENTRAL", SCHEME, "Central pulmonary embolism"),
    CHRONIC: Code("133971000119108", "SCT", "Chronic pulmonary embolism"),
    ACUTE_AND_CHRONIC: Code("PE-ACUTE-CHRON", SCHEME, "Acute and chronic pulmonary embolism"),
}
#: Contest label -> laterality of the lung.
SIDES: dict[str, Code] = {LEFT: LATERALITIES["left"], RIGHT: LATERALITIES["right"]}

_RATIO = Code("RVLV-RATIO", SCHEME, "RV/LV diameter ratio")
#: Column of the store's exam table -> name, unit and site of a measurement; any column may be missing.
MEASUREMENTS: dict[str, tuple[Code, Code, Code]] = {
    "rv_lv_ratio_measured": (_RATIO, NO_UNITS, codes.SCT.Heart),
    "rv_mm": (codes.SCT.Diameter, codes.UCUM.Millimeter, codes.SCT.RightVentricle),
    "lv_mm": (codes.SCT.Diameter, codes.UCUM.Millimeter, codes.SCT.LeftVentricle),
    "pulmonary_trunk_mm": (codes.SCT.Diameter, codes.UCUM.Millimeter, codes.SCT.PulmonaryTrunk),
    "ascending_aorta_mm": (codes.SCT.Diameter, codes.UCUM.Millimeter, codes.SCT.AscendingAorta),
}


def finding_sites(label: str) -> list[FindingSite]:
    """The anatomical site of a label's finding; empty if the label has none."""
    return [FindingSite(LUNG, laterality=SIDES[label])] if label in SIDES else []


def private_scheme() -> CodingSchemeIdentificationItem:
    """The identification of the private scheme."""
    return CodingSchemeIdentificationItem(
        designator=SCHEME,
        name="Labels of the RSNA-STR pulmonary embolism contest",
        responsible_organization="Authors of pulmonary-embolism-ensemble",
    )
