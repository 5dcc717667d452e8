"""NetKet takes all devices it sees, those too that backends.py forces; one is enough here."""

import os

os.environ.setdefault("NETKET_SHARDING", "0")
