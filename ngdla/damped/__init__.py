"""Damped normal equations and least squares: (S^H S + damping D) x = v."""
