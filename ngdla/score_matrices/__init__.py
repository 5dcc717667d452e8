"""What a score matrix S can be: an array, blocks, a stream, an operator."""
