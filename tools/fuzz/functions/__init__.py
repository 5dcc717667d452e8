"""Hostile problems for functions that are no damped solve, and what is said of their answers."""
