"""How values of users are shown in messages."""

from __future__ import annotations

from typing import Any

__all__ = ["shown"]

_LONGEST = 200


def shown(value: Any) -> str:
    """Return the repr of a value, cut where it is long; its kind where it has no repr.

    Of numbers and lists that are too long or too deep Python makes none, and meta tensors none.
    """
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001  the message is to be of the argument
        return f"a {type(value).__qualname__}"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
