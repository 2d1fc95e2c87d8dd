"""Ensemble members: weights, networks and prediction. The only package that uses torch."""
