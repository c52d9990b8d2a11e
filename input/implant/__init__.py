"""Clots implanted into a user's real PE-negative CT: real anatomy and noise, exact truth.

Takes DICOM series or NIfTI volumes without PE; finds pulmonary arteries, writes synthetic clots into them and makes a
contest tree with labels and masks. Reads `input.phantom` for the shape of clots; no later stage imports it.
"""
