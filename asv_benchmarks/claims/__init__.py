"""The claims of the documentation, one file a capability; `measure.py` runs their functions."""
