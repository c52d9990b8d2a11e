"""The evidence report: one HTML file with what the ensemble saw, said and is worth.

Takes a finished run, or freshly predicted studies; makes a page that needs no network: a list of exams by risk, a page
an exam (labels, slices in three windows, measured lines, what moved the stack), and a page on the model. The numbers
come from the modules that the CSVs and report.md come from.
"""
