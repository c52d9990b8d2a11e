"""Facts of the RSNA-STR Pulmonary Embolism Detection contest (Kaggle 2020): columns, weights, label order.

Source: the contest's data and evaluation pages; data set: Colak et al. 2021, RSPECT,
doi 10.1148/ryai.2021200254.
"""

STUDY = "StudyInstanceUID"
SERIES = "SeriesInstanceUID"
SOP = "SOPInstanceUID"
SLICE_LABEL = "pe_present_on_image"

NEGATIVE = "negative_exam_for_pe"
INDETERMINATE = "indeterminate"
GTE_1 = "rv_lv_ratio_gte_1"
LT_1 = "rv_lv_ratio_lt_1"
LEFT = "leftsided_pe"
RIGHT = "rightsided_pe"
CENTRAL = "central_pe"
CHRONIC = "chronic_pe"
ACUTE_AND_CHRONIC = "acute_and_chronic_pe"

#: Exam weights of the metric, in the order of the blocks of sample_submission.csv.
EXAM_WEIGHTS = {
    NEGATIVE: 0.0736196319,
    GTE_1: 0.2346625767,
    LT_1: 0.0782208589,
    LEFT: 0.06257668712,
    CHRONIC: 0.1042944785,
    RIGHT: 0.06257668712,
    ACUTE_AND_CHRONIC: 0.1042944785,
    CENTRAL: 0.1877300613,
    INDETERMINATE: 0.09202453988,
}
#: The nine predicted exam labels, in the submission's order.
EXAM_LABELS = tuple(EXAM_WEIGHTS)
#: Labels that only exams with PE can have.
POSITIVE_LABELS = (GTE_1, LT_1, LEFT, CHRONIC, RIGHT, ACUTE_AND_CHRONIC, CENTRAL)
#: Weight of a slice in the metric, before it is multiplied by q of its exam.
IMAGE_WEIGHT = 0.07361963

QA_MOTION = "qa_motion"
QA_CONTRAST = "qa_contrast"
FLOW_ARTIFACT = "flow_artifact"
FILLING_DEFECT_NOT_PE = "true_filling_defect_not_pe"
#: Given for training exams only, not predicted. Motion or poor contrast makes an exam indeterminate.
QA_LABELS = (QA_MOTION, QA_CONTRAST, FLOW_ARTIFACT, FILLING_DEFECT_NOT_PE)

#: Label titles for people; files and code use the contest's column names.
LABEL_TITLES = {
    NEGATIVE: "Negative for PE",
    GTE_1: "RV/LV ratio >= 1",
    LT_1: "RV/LV ratio < 1",
    LEFT: "Left-sided PE",
    CHRONIC: "Chronic PE",
    RIGHT: "Right-sided PE",
    ACUTE_AND_CHRONIC: "Acute and chronic PE",
    CENTRAL: "Central PE",
    INDETERMINATE: "Indeterminate",
    SLICE_LABEL: "PE on this slice",
    QA_MOTION: "Motion artifact",
    QA_CONTRAST: "Inadequate contrast",
    FLOW_ARTIFACT: "Flow artifact",
    FILLING_DEFECT_NOT_PE: "Filling defect other than PE",
}

ID_COLUMNS = (STUDY, SERIES, SOP)
#: The header of train.csv.
TRAIN_COLUMNS = (
    *ID_COLUMNS, SLICE_LABEL, NEGATIVE, QA_MOTION, QA_CONTRAST, FLOW_ARTIFACT, GTE_1, LT_1, LEFT, CHRONIC,
    FILLING_DEFECT_NOT_PE, RIGHT, ACUTE_AND_CHRONIC, CENTRAL, INDETERMINATE,
)  # fmt: skip
SUBMISSION_COLUMNS = ("id", "label")
