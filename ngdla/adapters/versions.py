"""The releases of other codes that the doors were tried with."""

from __future__ import annotations

import importlib.metadata
import re

__all__ = ["require_version"]


def require_version(package: str, at_least: str, below: str) -> None:
    """Raise ImportError unless this release of a package, or one between these, is installed."""
    wanted = f"'{package} >= {at_least}, < {below}'"
    try:
        found = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        msg = f"{package} is not installed; install the release that this door is for: {wanted}."
        raise ImportError(msg) from None
    if not _release(at_least) <= _release(found) < _release(below):
        msg = (
            f"{package} {found} is installed, but this door was tried with {wanted} only. Install "
            f"such a release, or a newer ngdla."
        )
        raise ImportError(msg)


def _release(version: str) -> tuple[int, ...]:
    """Return major and minor, so that pre-releases count as what they lead to."""
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])
