"""Hostile problems for every damped solve, their exact solutions, and what is said of an answer."""
