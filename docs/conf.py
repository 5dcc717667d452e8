"""How the pages are built: sphinx-build -W --keep-going -b html docs docs/_build/html."""

import os
import sys
from pathlib import Path

# The matrices of the examples are small: more BLAS threads than free cores wait for each other.
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import ngdla  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parent / "_ext"))

project = "ngdla"
author = "ngdla developers"
project_copyright = author
version = release = ngdla.__version__

extensions = [
    "generated",
    "numpydoc",
    "offline_mathjax",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples"]
default_role = "py:obj"

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autodoc_member_order = "bysource"
autodoc_typehints = "none"
autosummary_generate = False
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "auto_examples",
    "abort_on_example_error": True,
    "ignore_pattern": r"^(?!plot_)",  # programs and classes of several files, in folders
    "download_all_examples": False,
    "image_srcset": ["2x"],
    "min_reported_time": float("inf"),
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"ngdla {release}"
html_static_path = ["_static"]
html_css_files = ["ngdla.css"]
html_show_sourcelink = False
html_copy_source = False
html_use_index = False
html_context = {"default_mode": "auto"}
# A sidebar only where it has something to show: on the left the pages of the API, on the right the
# headings of a page.
html_sidebars = {"[!a]*": [], "[!a]*/*": [], "auto_examples/*": [], "api/*": ["sidebar-nav-bs"]}
html_theme_options = {
    "header_links_before_dropdown": 6,
    "logo": {"text": "ngdla"},
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "primary_sidebar_end": [],
    "show_prev_next": False,
    "footer_start": ["copyright"],
    "footer_end": ["sphinx-version"],
    "secondary_sidebar_items": {
        "**": ["page-toc"],
        "index": [],
        "search": [],
        "auto_examples/index": [],
    },
    "show_toc_level": 2,
}


def escape_norms(app, what, name, obj, options, lines):
    """Keep the bars of |x| in docstrings: reStructuredText would look for a substitution."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((".. ", ">>>", "...")):
            lines[i] = line.replace("|", r"\|")


def setup(app):
    """Connect what has no extension of its own."""
    app.connect("autodoc-process-docstring", escape_norms)
