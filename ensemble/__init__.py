"""Combining predictions.

Takes the networks' out-of-fold predictions and the measured features. Fits LightGBM stacks for slices and exams, the
baselines and a logit mean to compare them with, and derives a posterior over the joint label states that the contest
allows. The submissions read the resulting predictions.
"""
