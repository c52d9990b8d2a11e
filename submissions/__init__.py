"""Submissions, reports and exports.

Takes the ensemble's predictions. Writes valid submission CSVs in Kaggle's format, scores with confidence intervals, the
leaderboard, the run report and the model card; `kaggle` packages a finished run and uploads submissions. The inference
stage reads the finished run.
"""
