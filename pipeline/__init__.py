"""How a stage runs: settings, paths, artifacts with manifests, jobs, plans and console output.

Input: the command line and a settings file. Output: the resolved settings, artifact folders and logs. Read by every
stage; it imports no stage and holds no facts of a stage, such as rates, counts or names of networks.
"""
