"""How many opinions become one.

Takes the networks' out-of-fold predictions and the measured numbers; makes LightGBM stacks for
slices and exams, their plain rival (a logit mean), and consistent exam states. The submissions
read the predictions.
"""
