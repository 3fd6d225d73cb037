"""What codecs take for a message, written out."""

from __future__ import annotations

import math
from collections.abc import Callable

BITS: dict[str, Callable[[int], int]] = {
    "identity": lambda size: 32 * size,
    "float16": lambda size: 16 * size,
    "bfloat16": lambda size: 16 * size,
    "top_k": lambda size: max(1, round(size / 100)) * (32 + math.ceil(math.log2(size))),
    "random_k": lambda size: max(1, round(size / 100)) * 32,
    "sign": lambda size: size + 32,
    "quantize": lambda size: 8 * size + 32,
    "ternary": lambda size: 8 * math.ceil(size / 5) + 32,
}
"""Of a message of P numbers."""
