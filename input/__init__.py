"""Contest data: validation, DICOM reading, exam and slice tables, folds.

Input is a contest tree: DICOM or JPEG files and CSVs (`input.phantom` generates a synthetic one). Output is
`input/prepared`: the exam and slice tables with slice order, geometry, flags and folds. The package also holds
the contest's facts, its metric and the DICOM series reader. All later stages import from it.
"""
