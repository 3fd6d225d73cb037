"""The largest numbers. Axes: S agents that send, P numbers of each, K of them that it sends."""

from dataclasses import dataclass

from torch import Tensor

from rl_agg.codecs.draws import Draws
from rl_agg.codecs.sparse import Sparse


@dataclass(frozen=True)
class TopK(Sparse):
    r"""Send the K numbers of largest magnitude, and where they are.

    Size: :math:`32 K + \min(K \lceil \log_2 P \rceil, P)` bits: places are numbers, or a bit for each of P where that is less.

    Source: Stich et al. (2018), Sparsified SGD with memory, definition 2.1 (top-k).
    """

    def choose(self, rows: Tensor, count: int, draws: Draws) -> Tensor:
        """Of largest magnitude."""
        return rows.abs().topk(count, dim=1, sorted=False).indices

    def place_bits(self, count: int, size: int) -> int:
        """The less of a list and a bitmap."""
        return min(count * (size - 1).bit_length(), size)
