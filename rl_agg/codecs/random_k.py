"""Numbers at random places. Axes: S agents that send, P numbers of each, K of them that it sends."""

from dataclasses import dataclass

from torch import Tensor

from rl_agg.codecs.draws import Draws
from rl_agg.codecs.sparse import Sparse


@dataclass(frozen=True)
class RandomK(Sparse):
    """Send K numbers at places that each agent draws anew in every exchange; the server draws the same, by the run's seed.

    Multiplied by P / K, which makes it unbiased; with error feedback, sent as they are. Size: 32 K bits.

    Source: Stich et al. (2018), Sparsified SGD with memory, definition 2.1 (rand-k).
    """

    def choose(self, rows: Tensor, count: int, draws: Draws) -> Tensor:
        """Those that draw the largest numbers."""
        return draws(rows).topk(count, dim=1, sorted=False).indices

    def factor(self, count: int, size: int, draws: Draws) -> float:
        """P / K where the mean is to be the input."""
        return size / count if draws.unbiased else 1.0
