"""Communicators: the ranks that hold the shards of a score matrix.

`MPICommunicator` for mpi4py, `TorchCommunicator` for `torch.distributed` and `JaxAxis` inside
`jax.shard_map`; `SerialCommunicator` is one rank, `RecordingCommunicator` counts what is sent. An
engine is imported when its communicator is made.
"""

from ngdla._backend.pickles import name_public

from .recording import Collective, RecordingCommunicator
from .serial import SerialCommunicator

__all__ = ["Collective", "RecordingCommunicator", "SerialCommunicator"]

name_public(__name__, globals(), __all__)
