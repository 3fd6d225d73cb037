"""How Sphinx builds these pages: ``make docs``."""

from importlib.metadata import version as installed
from typing import TypeVar

import numpy.typing

numpy.typing.ArrayLike = TypeVar("ArrayLike")  # by its name, not as the union that it stands for

project = "rl-agg"
author = "the rl-agg authors"
release = version = installed("rl-agg")
extensions = ["myst_parser", "sphinx.ext.mathjax", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"rl-agg {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
autodoc_typehints = "description"
