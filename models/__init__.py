"""Networks: training and prediction.

Reads 2.5-D slices of the pixel store and the folds. Trains one slice network per (backbone, fold), by default from
ImageNet weights, and optionally exam networks on its embeddings. Writes out-of-fold and test predictions (probabilities
per slice and exam label) and embeddings, which the ensemble reads.
"""
