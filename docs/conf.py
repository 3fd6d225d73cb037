"""How Sphinx builds these pages: ``make docs``."""

import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import TypeVar

import numpy.typing

numpy.typing.ArrayLike = TypeVar("ArrayLike")  # by its name, not as the union that it stands for
sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "rl-agg"
author = "the rl-agg authors"
release = version = installed("rl-agg")
extensions = [
    "mathml",
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "sphinxarg.ext",
]
html_math_renderer = "mathml"
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"rl-agg {release}"
html_show_copyright = False
html_logo = html_favicon = "_static/logo.svg"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
autodoc_default_options = {"no-value": True}  # a registry is a page of classes
autosummary_ignore_module_all = False  # a package's page has the names that it exports
