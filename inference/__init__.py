"""Predictions for new exams, and the evidence behind them.

Input: unlabelled series, or the test exams of a finished run, and the finished ensemble. Output: exam labels, slice
probabilities and findings per study; `evidence` writes an HTML report, `pacs` writes DICOM objects for an archive.
This is the rightmost stage: no other stage imports it.
"""
