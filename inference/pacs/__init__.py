"""Answers for an archive: a summary picture and a structured report a study, as DICOM objects.

Takes freshly predicted series; makes two objects that lie in the source's study, each in a new series, and say what
they are not for. `export_dicom` in `export` is what the command calls; nothing else imports this package.
"""
