"""The natural gradient as a weighted sum of gradients of samples: FNGD."""
