"""What a codec is. Axes: S agents that send, P numbers that each sends."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from rl_agg.payloads.base import VECTORS


@dataclass(frozen=True, slots=True)
class Encoded:
    """Messages, as their receiver reads them.

    :param decoded: ``[S, P]``, in the dtype of what was encoded.
    :param bits: Size of each message ``[S]``, integer.
    """

    decoded: Tensor
    bits: Tensor


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
        """
