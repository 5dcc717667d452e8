"""Benchmarks, one file a capability; asv and `measure.py` run the same functions."""
