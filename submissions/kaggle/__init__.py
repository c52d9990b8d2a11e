"""Kaggle: data sets of a finished run, the notebook that runs them there, and the upload of a submission.

Takes the finished run or a checked CSV and makes what a code competition without Internet accepts. Uploads go through
Kaggle's own command line, which keeps the token.
"""
