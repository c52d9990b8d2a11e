"""The way to Kaggle: data sets of a finished run, the notebook that runs them there, and the upload of a submission.

Takes the finished run or a checked CSV; makes what a code competition without Internet accepts. Kaggle's own command
line does the sending and keeps the token.
"""
