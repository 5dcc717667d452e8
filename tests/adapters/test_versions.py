"""Releases of other codes: those that a door was tried with, and no others."""

import importlib.metadata
import subprocess
import sys

import pytest

from ngdla.adapters.versions import require_version


@pytest.fixture
def installed(monkeypatch):
    def install(version):
        monkeypatch.setattr(importlib.metadata, "version", lambda package: version)

    return install


@pytest.mark.parametrize("version", ["0.4", "0.4.0", "0.4.11", "0.4.0rc1", "0.4.dev3+g0123abc"])
def test_tried_releases(version, installed):
    installed(version)
    require_version("quantax", at_least="0.4", below="0.5")


@pytest.mark.parametrize("version", ["0.3.9", "0.5.0", "0.5.0rc1", "0.40", "1.0", "unknown"])
def test_other_releases_are_named_with_the_remedy(version, installed):
    installed(version)
    with pytest.raises(ImportError) as caught:
        require_version("quantax", at_least="0.4", below="0.5")
    assert str(caught.value) == (
        f"quantax {version} is installed, but this door was tried with 'quantax >= 0.4, < 0.5' "
        f"only. Install such a release, or a newer ngdla."
    )


def test_nothing_installed():
    with pytest.raises(ImportError, match=r"^no-such-code is not installed; install .*'no-such-"):
        require_version("no-such-code", at_least="1.0", below="2.0")


def test_a_door_asks_before_it_imports():
    """In a process of its own, where nothing of the code has been imported."""
    pytest.importorskip("netket")
    program = """
import importlib.metadata
importlib.metadata.version = lambda package: "2.0"
try:
    import ngdla.adapters.netket
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "netket 2.0 is installed, but this door was tried with" in done.stdout
