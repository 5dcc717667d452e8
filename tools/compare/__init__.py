"""Whether two commits compute the same: cases, how they run, and what differs."""
