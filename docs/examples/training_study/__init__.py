"""A training study: optimisers behind torch modules, on small images of digits."""
