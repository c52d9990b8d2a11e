"""What the contest gives us, made trustworthy.

Takes a contest tree (raw DICOM or JPEG plus CSVs; the phantom draws one) and makes the exam and
slice tables with order, geometry, flags and folds. Also home of the contest's facts, its metric
and the DICOM series reader. Every stage to the right reads these.
"""
