"""Exponentials, roots and logarithms of matrices, and what they ask of a matrix."""
