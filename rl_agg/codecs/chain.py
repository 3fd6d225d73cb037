"""One codec for what another one leaves."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from rl_agg.byte_budget import Knob
from rl_agg.codecs.base import Codec, Encoded, Encoder, encoder
from rl_agg.codecs.draws import Draws
from rl_agg.codecs.sparse import Sparse


@dataclass(frozen=True)
class Chain(Codec):
    """Choose numbers by the first codecs, and encode those that are left by the last one.

    Size: that of the last codec's message, and the places that the others send.

    :param codecs: Two or more, in order; all but the last are ``top_k`` or ``random_k``.
    :raises ValueError: if there are fewer, or another codec is not the last.
    """

    codecs: tuple[Codec, ...]

    def __post_init__(self) -> None:
        if len(self.codecs) < 2:
            raise ValueError(f"a chain needs two codecs or more, got {self.codecs!r}")
        for codec in self.codecs[:-1]:
            if not isinstance(codec, Sparse):
                raise ValueError(
                    f"{codec!r} leaves no numbers for another codec to encode; choose random_k or top_k before the last one, "
                    f"got {self.codecs!r}"
                )
        payloads = frozenset.intersection(*(codec.payloads for codec in self.codecs))
        object.__setattr__(self, "payloads", payloads)

    @property
    def knob(self) -> Knob | None:
        """That of the first codec."""
        return self.codecs[0].knob

    def turned(self, value: float) -> Chain:
        """With the first codec turned."""
        first, *others = self.codecs
        return Chain((first.turned(value), *others))

    def __call__(self, rows: Tensor) -> Encoded:
        """As in the first exchange of run 0."""
        return self.at(Draws())(rows)

    def at(self, draws: Draws) -> Encoder:
        """The chain in one exchange, each codec with draws of its own."""
        *sparse, last = self.codecs
        encode = encoder(last, replace(draws, stage=len(sparse)))
        for stage, codec in reversed(list(enumerate(sparse))):
            assert isinstance(codec, Sparse)
            encode = codec.around(encode, replace(draws, stage=stage))
        return encode
