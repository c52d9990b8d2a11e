"""Measured columns of the store's exam table as words, for the evidence report and the DICOM export."""

MEASUREMENT_TITLES = {
    "rv_mm": "right ventricle",
    "lv_mm": "left ventricle",
    "pulmonary_trunk_mm": "pulmonary trunk",
    "ascending_aorta_mm": "ascending aorta",
    "rv_lv_ratio_measured": "RV/LV diameter ratio",
    "trunk_aorta_ratio": "pulmonary trunk/aorta diameter ratio",
}
