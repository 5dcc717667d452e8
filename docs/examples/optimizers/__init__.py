"""Whole optimisers for torch modules, one class a file: KFAC, SINGD, FNGD, natural gradient."""
