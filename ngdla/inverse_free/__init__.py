"""Factors of inverses, updated by products alone: IKFAC, INGD and SINGD."""
