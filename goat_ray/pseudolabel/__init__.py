"""From predictions to pseudo-labels: gates, leak guards, folds, and an nnU-Net dataset with a reason for each case."""
