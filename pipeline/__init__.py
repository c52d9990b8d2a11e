"""How a stage runs: settings, paths, products with manifests, jobs, and what the console shows.

A leaf package: every stage imports it, it imports no stage.
"""
