"""Few levels. Axes: S agents that send, P numbers that each sends."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rl_agg.codecs.base import Encoded, RandomCodec
from rl_agg.codecs.draws import Draws
from rl_agg.codecs.elias import gap_bits
from rl_agg.codecs.identity import BITS
from rl_agg.codecs.rounding import round_at_random
from rl_agg.validation import check_choice, check_count

CODINGS = ("fixed", "elias")


@dataclass(frozen=True)
class Quantize(RandomCodec):
    r"""Send each number as a sign and one of the magnitudes :math:`\lVert x \rVert_2 \, q / s`, :math:`q = 0, …, s`.

    A magnitude between two of them becomes one of both at random, without bias. Size with ``"fixed"`` coding:
    :math:`P \lceil \log_2 (2 s + 1) \rceil + 32` bits. With ``"elias"`` it depends on the numbers: 32 bits, and for each that
    is not 0 its distance from the last such one and its level, both as Elias' recursive (omega) code, and a bit for its sign.
    That is less where most levels are small, as they are if :math:`s < \sqrt P`.

    :param levels: :math:`s`, between 1 and 32767: 127 are a byte a number.
    :param coding: ``"fixed"`` or ``"elias"``.
    :raises ValueError: if a setting is none of these.

    Source: Alistarh et al. (2017), QSGD, section 3.1; the coding in theorem 3.2. Differs: with error feedback, the norm that
    is sent is the one that brings the levels nearest to the numbers.
    """

    levels: int = 127
    coding: str = "fixed"

    def __post_init__(self) -> None:
        check_count("levels", self.levels, least=1, most=2**15 - 1)
        check_choice("coding", self.coding, CODINGS)

    def encode(self, rows: Tensor, draws: Draws) -> Encoded:
        """Levels and a float32."""
        largest = rows.abs().amax(1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
        norms = largest * (rows / largest).norm(dim=1, keepdim=True)  # where squares would overflow, too
        decoded, levels = round_at_random(rows, norms, self.levels, draws)
        if self.coding == "elias":
            return Encoded(decoded, gap_bits(levels.nan_to_num()) + BITS)
        return Encoded(decoded, torch.full((len(rows),), rows.shape[1] * (2 * self.levels).bit_length() + BITS))
