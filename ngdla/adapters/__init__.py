"""Doors: the solvers of this library where other programs expect theirs."""
