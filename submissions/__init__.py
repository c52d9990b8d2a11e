"""What leaves the house.

Takes predictions; makes valid submission CSVs in Kaggle's format, scores with intervals, the
leaderboard, the report, and predictions for unlabelled series.
"""
