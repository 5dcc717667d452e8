"""A few eigenpairs or singular triplets from a few products."""
