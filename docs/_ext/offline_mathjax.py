"""Formulas without a network: one file of MathJax, glyphs included, beside the pages.

The package sphinx-mathjax-offline carries all of MathJax and as an extension would copy all of it,
24 MB; the SVG component is complete in itself.
"""

from importlib.util import find_spec
from pathlib import Path

from sphinx.errors import ExtensionError
from sphinx.util.fileutil import copy_asset

PACKAGE, COMPONENT = "sphinx-mathjax-offline", "tex-svg.js"


def component() -> Path:
    """Return where the installed package keeps the component."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        msg = f"{PACKAGE} is not installed; pip install {PACKAGE}"
        raise ExtensionError(msg)
    return Path(spec.origin).parent / "static" / "mathjax" / COMPONENT


def copy_component(app, error):
    """Copy it into the built pages."""
    if error is None and app.builder.format == "html":
        copy_asset(component(), app.outdir / "_static")


def setup(app):
    """Point Sphinx to the copy; the menu is left out, as it would load other components."""
    component()
    app.setup_extension("sphinx.ext.mathjax")
    app.config.mathjax_path = COMPONENT
    app.config.mathjax3_config = {"options": {"enableMenu": False}}
    app.connect("build-finished", copy_component)
    return {"parallel_read_safe": True}
