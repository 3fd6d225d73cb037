"""What a payload is. Axes: A agents, P numbers that each exchanges."""

from abc import ABC
from typing import ClassVar

from torch import Tensor

CONTENTS = ("gradients", "parameters", "scores", "transitions")
"""What hosts provide."""

VECTORS = frozenset({"gradients", "parameters"})
"""Those that are vectors ``[A, P]``."""


class Payload(ABC):
    """What agents exchange; subclass a payload to exchange something else that is made of gradients or parameters."""

    content: ClassVar[str]
    """What it is made of, one of :data:`CONTENTS`."""

    kind: ClassVar[str]
    """What the ledger counts a message's numbers as, one of :data:`rl_agg.ledger.SIZES`."""

    answer: ClassVar[str] = "parameters"
    """What it counts the numbers of an answer as."""

    local: ClassVar[bool] = False
    """Whether every agent has parameters of its own."""

    def outgoing(self, vectors: Tensor, reference: Tensor | None) -> Tensor:
        """What agents send.

        :param vectors: The host's gradients or parameters ``[A, P]``; left as they are.
        :param reference: The parameters that were merged last ``[P]``; ``None`` for gradients.
        :return: ``[A, P]``.
        """
        return vectors

    def incoming(self, merged: Tensor, reference: Tensor | None) -> Tensor:
        """What the host gets back.

        :param merged: Of what agents sent ``[P]``.
        :param reference: As above.
        :return: A gradient, or parameters ``[P]``.
        """
        return merged
