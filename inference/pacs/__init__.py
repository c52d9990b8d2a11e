"""DICOM objects for an archive (PACS): a summary image and a structured report per study.

Input: freshly predicted series. Output: two objects in the source's study, each in a new series and marked for research
use only. `export_dicom` in `export_dicom` is the entry point; nothing else imports this package.
"""
