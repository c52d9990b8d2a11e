"""Synthetic clots implanted into a user's PE-negative CT scans: real anatomy and noise, exact ground truth.

Input: DICOM series or NIfTI volumes without PE. Output: a contest tree with labels and masks. Detects pulmonary
arteries (`real_arteries`), inserts clots of `input.phantom` into their lumina and writes the exams
(`implanted_contest`); no later stage imports this package.
"""
