"""How many operations torch sends in a call: on a GPU, each of them is a kernel or a host read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

# Operations that compute nothing: other views of an array, and memory that is not written yet.
_NOTHING = {
    *("alias", "as_strided", "detach", "diagonal", "empty", "empty_like", "empty_strided"),
    *("expand", "lift_fresh", "new_empty", "new_empty_strided", "permute", "select", "slice"),
    *("split", "squeeze", "t", "transpose", "unbind", "unsqueeze", "view", "view_as_real"),
    *("_conj", "_reshape_alias", "_unsafe_view"),
}
_READ = "_local_scalar_dense"


def sent(call: Callable[[], Any]) -> Counter[str]:
    """Return the operations of the second of two calls, by name, without reads on the host."""
    from torch.utils._python_dispatch import TorchDispatchMode

    names: Counter[str] = Counter()

    class Count(TorchDispatchMode):
        def __torch_dispatch__(
            self, operation: Any, types: Any, arguments: Any = (), options: Any = None
        ) -> Any:
            names[operation._schema.name.partition("::")[2]] += 1
            return operation(*arguments, **(options or {}))

    call()
    with Count():
        call()
    return Counter({name: n for name, n in names.items() if name not in (*_NOTHING, _READ)})


def kernels(call: Callable[[], Any]) -> int:
    """Return how many operations a call sends that compute something."""
    return sent(call).total()
