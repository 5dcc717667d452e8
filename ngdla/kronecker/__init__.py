"""Kronecker factors: their averages, and the damped solves of KFAC."""
