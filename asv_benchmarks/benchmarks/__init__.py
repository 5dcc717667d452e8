"""The classes that asv runs, one file a capability, and what they share with the claims."""
