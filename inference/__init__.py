"""New exams: labels, findings, and the evidence behind them.

Takes unlabelled series, or the test exams of a finished run, and the finished ensemble; makes labels and findings per
study, `evidence` an HTML report, `pacs` DICOM objects for an archive. The rightmost stage: nothing imports it.
"""
