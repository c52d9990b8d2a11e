"""How many opinions become one.

Takes the networks' out-of-fold predictions and the measured numbers; makes LightGBM stacks for
slices and exams, their plain rivals (a logit mean, weights a label), and from them a posterior
over the joint label states that the contest allows. The submissions read the predictions.
"""
