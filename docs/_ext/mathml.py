"""Mathematics as MathML, which browsers draw by themselves: without a network, a script or fonts of our own."""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

REPLACED = {
    r"\\arg\b": r"\\operatorname{arg}",
    r"(\\[Bb]igr\)|\\r[Vv]ert)\^": r"\1{}^",  # a large bracket with an exponent would be small
}
"""What the converter does not know, or sets badly, by regular expression."""
logger = logging.getLogger(__name__)


def mathml(node: nodes.Element, display: str) -> str:
    """A formula; what the converter does not know it would show as it is written, which is a warning."""
    source = node.astext()
    for pattern, better in REPLACED.items():
        source = re.sub(pattern, better, source)
    converted: str = convert(source, display=display)
    if "\\" in converted:
        logger.warning("a command in the formula %s is not known", node.astext(), location=node)
    return converted


def write_inline(writer: HTML5Translator, node: nodes.math) -> None:
    writer.body.append(mathml(node, "inline"))
    raise nodes.SkipNode


def write_displayed(writer: HTML5Translator, node: nodes.math_block) -> None:
    writer.body.append(f'<div class="math">{mathml(node, "block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_html_math_renderer("mathml", (write_inline, None), (write_displayed, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
