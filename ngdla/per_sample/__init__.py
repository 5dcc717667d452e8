"""The natural gradient as a weighted sum of per-sample gradients: FNGD."""
