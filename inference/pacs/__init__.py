"""DICOM objects for an archive (PACS): per study a summary image, a structured report and, on request, a segmentation.

Input: freshly predicted series. Output: objects in the source's study, each in a new series and marked for research use
only. `export_dicom` in `export_dicom` is the entry point; nothing else imports this package.
"""
