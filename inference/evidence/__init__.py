"""The evidence report: one HTML file that shows what the ensemble predicts, on what evidence, and how reliably.

Input: a finished run, or freshly predicted studies. Output: a self-contained page with a list of exams by risk, a page
per exam (labels, findings, slices in three windows, diameters, feature contributions), and a page on the model. All
numbers come from the modules that also write the CSVs and report.md.
"""
