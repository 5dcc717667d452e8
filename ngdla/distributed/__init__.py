"""Communicators: the ranks that hold the shards of a score matrix.

`MPICommunicator` for mpi4py, `TorchCommunicator` for `torch.distributed` and `JaxAxis` inside
`jax.shard_map`; `SerialCommunicator` is one rank, `RecordingCommunicator` counts what is sent. An
engine is imported when its communicator is made.
"""

from ngdla._backend.pickles import name_public

from .jax import JaxAxis
from .mpi import MPICommunicator
from .recording import Collective, RecordingCommunicator
from .serial import SerialCommunicator
from .torch import TorchCommunicator

__all__ = [
    "Collective",
    "JaxAxis",
    "MPICommunicator",
    "RecordingCommunicator",
    "SerialCommunicator",
    "TorchCommunicator",
]

name_public(__name__, globals(), __all__)
