"""What networks learn.

Takes 2.5-D slices of the pixel store and the folds; trains one network a (backbone, fold) from
ImageNet weights and makes out-of-fold and test slice probabilities, exam-label opinions and
embeddings. The ensemble reads these.
"""
