"""The claims of the README's table, one file a capability; `measure.py` runs their functions."""
