"""A training study: optimisers made of ngdla's public functions, on small images of digits."""
