"""Exponentials, roots and logarithms of matrices, and checks that matrices are positive."""
