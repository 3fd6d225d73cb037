"""What a codec is. Axes: S agents that send, P numbers that each sends."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from rl_agg.byte_budget import Knob
from rl_agg.codecs.draws import Draws
from rl_agg.payloads.base import VECTORS
from rl_agg.returned import described, is_foreign, tensor_of


@dataclass(frozen=True, slots=True)
class Encoded:
    """Messages, as their receiver reads them.

    :param decoded: ``[S, P]``, in the dtype of what was encoded.
    :param bits: Size of each message ``[S]``, integer.
    """

    decoded: Tensor
    bits: Tensor


Encoder = Callable[[Tensor], Encoded]
"""A codec in one exchange."""


class Codec(ABC):
    """Encodes gradients or parameters; subclass it for a codec of your own. A pure function: it remembers nothing."""

    payloads: ClassVar[frozenset[str]] = VECTORS
    """What it can encode, by the payload's ``content``."""

    lossy: ClassVar[bool] = True
    """Whether decoding gives something else than what was encoded: such a codec can have error feedback."""

    @abstractmethod
    def __call__(self, rows: Tensor) -> Encoded:
        """Encode and decode.

        :param rows: One message in each row ``[S, P]``; left as it is. Rows that are not finite must stay so.
        :return: Of a codec of your own also a pair of them, arrays in place of tensors, or one size for all messages.
        """

    @property
    def knob(self) -> Knob | None:
        """The setting that decides about the size, by which a budget of bytes can be kept; ``None``: there is none."""
        return None

    def turned(self, value: float) -> Codec:
        """The same codec with another value of :attr:`knob`."""
        raise NotImplementedError

    def at(self, draws: Draws) -> Encoder:
        """The codec in one exchange: itself, unless it draws.

        :param draws: Random numbers of the exchange.
        """
        return self


class RandomCodec(Codec):
    """A codec that draws; called without an exchange, it draws as in the first one of run 0."""

    @abstractmethod
    def encode(self, rows: Tensor, draws: Draws) -> Encoded:
        """Encode and decode.

        :param rows: As for :meth:`Codec.__call__`.
        :param draws: Random numbers, and whether the mean over them is to be the input.
        """

    def __call__(self, rows: Tensor) -> Encoded:
        """As :meth:`encode`."""
        return self.encode(rows, Draws())

    def at(self, draws: Draws) -> Encoder:
        """:meth:`encode` with these draws."""
        return lambda rows: self.encode(rows, draws)


def encoder(codec: Codec, draws: Draws) -> Encoder:
    """The codec in one exchange, and of a user's own, what it returns is checked.

    :param draws: As for :meth:`Codec.at`.
    """
    encode = codec.at(draws)
    return (lambda rows: _checked(codec, encode(rows), rows)) if is_foreign(codec) else encode


def _checked(codec: Codec, returned: Any, rows: Tensor) -> Encoded:
    """What a user's codec returned, as messages.

    :raises ValueError: if it is none.
    """
    if isinstance(returned, tuple) and len(returned) == 2:
        returned = Encoded(*returned)
    got = returned
    wanted = "Encoded(decoded, bits)"
    if hasattr(returned, "decoded") and hasattr(returned, "bits"):
        decoded, bits = tensor_of(returned.decoded, rows), tensor_of(returned.bits, rows)
        if bits is not None and not bits.ndim:
            bits = bits.expand(len(rows))
        if decoded is None or decoded.shape != rows.shape:
            wanted, got = f"decoded numbers [S, P] = {list(rows.shape)}", returned.decoded
        elif bits is None or bits.shape != (len(rows),) or not bool(((bits >= 0) & bits.isfinite()).all()):
            wanted, got = f"bits >= 0 of each message, [S] = [{len(rows)}]", returned.bits
        else:
            return Encoded(decoded.to(rows), bits.ceil())
    raise ValueError(f"{type(codec).__name__} must return {wanted}, got {described(got)}")
