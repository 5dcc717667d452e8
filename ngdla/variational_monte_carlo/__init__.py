"""Stochastic reconfiguration (SR, minSR, SPRING) from what a Monte Carlo code has."""
