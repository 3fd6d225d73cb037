"""What a gate is. Axes: A agents, P numbers that an agent could send."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from rl_agg.byte_budget import Knob
from rl_agg.payloads.base import VECTORS
from rl_agg.returned import described, is_foreign, tensor_of
from rl_agg.validation import check_count


@dataclass(frozen=True, slots=True)
class Offer:
    """What agents could send, and what is known when they decide.

    :param vectors: Gradients or parameters of each agent ``[A, P]``.
    :param last: What the server received last from each agent ``[A, P]``.
    :param has_sent: Who has sent something before ``[A]``, bool.
    :param present: Whose vector is finite ``[A]``, bool; the others cannot send.
    :param step: How many exchanges came before.
    :param scale: What the optimiser multiplies each number by ``[P]``; ``None``: all alike.
    :param gains: By how much a step with its own gradient would change each agent's loss ``[A]``; ``None`` where the host does
        not know.
    :param run: The run's seed, for a gate that draws.
    """

    vectors: Tensor
    last: Tensor
    has_sent: Tensor
    present: Tensor
    step: int
    scale: Tensor | None = None
    gains: Tensor | None = None
    run: int = 0


class Gate:
    """What all gates have in common; derive from :class:`VectorGate`, :class:`~rl_agg.gates.scores.ScoreGate` or
    :class:`~rl_agg.gates.transitions.TransitionGate`.

    :param num_agents: A.
    """

    payloads: ClassVar[frozenset[str]]
    """What agents may offer it, by the payload's ``content``."""

    reads: ClassVar[frozenset[str]] = frozenset()
    """Fields of :class:`Offer` that it cannot do without: ``gains``."""

    def __init__(self, num_agents: int) -> None:
        check_count("num_agents", num_agents, least=1)
        self.num_agents = num_agents

    @property
    def knob(self) -> Knob | None:
        """The setting, and attribute, that decides about how many agents send, by which a budget of bytes can be kept;
        ``None``: there is none."""
        return None

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as plain numbers, arrays and tensors on the CPU: most gates remember nothing."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""


class VectorGate(Gate, ABC):
    """Decides which agents send their gradient or parameters; subclass it for a gate of your own."""

    payloads = VECTORS

    holds: ClassVar[bool] = True
    """Whether the server counts an agent that does not send by what it sent last. Otherwise it leaves the agent out."""

    @abstractmethod
    def decide(self, offer: Offer) -> Tensor:
        """Decide who sends.

        :return: ``[A]``, bool; of a gate of your own also an array or a sequence, or zeros and ones. An agent that is not
            present does not send, whatever this says.
        """

    def note_step(self, step: Tensor) -> None:
        """Called with what the server stepped with.

        :param step: ``[P]``: the merged gradient on the scale of a mean, before clipping; or the change of merged parameters.
        """


def decided(gate: VectorGate, offer: Offer) -> Tensor:
    """Ask a gate who sends.

    :return: ``[A]``, bool.
    :raises ValueError: if a gate of a user's own returns something else.
    """
    returned: Any = gate.decide(offer)
    if not is_foreign(gate):
        sends: Tensor = returned
        return sends
    found = tensor_of(returned, offer.present)
    if found is None or found.shape != offer.present.shape or not bool(((found == 0) | (found == 1)).all()):
        raise ValueError(
            f"{type(gate).__name__}.decide() must return True or False for each agent, [A] = [{len(offer.present)}], got "
            f"{described(returned)}"
        )
    return found.bool()
