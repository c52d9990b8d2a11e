"""What leaves the house.

Takes predictions; makes valid submission CSVs in Kaggle's format, scores with intervals, the
leaderboard, reports, and predictions for unlabelled series; `pacs` writes them for an archive, `kaggle` sends them off.
"""
