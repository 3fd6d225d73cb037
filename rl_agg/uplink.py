"""The way from the agents to the server: gate, codec with error feedback, and what the server received last.

Axes: A agents, P numbers that each exchanges.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from rl_agg.codecs import FEEDBACKS, Codec, Draws, Identity, encoder
from rl_agg.gates import EveryGate, Offer, VectorGate, decided
from rl_agg.scheme import Scheme
from rl_agg.signals import REPORTED, Signals


@dataclass(frozen=True, slots=True)
class Received:
    """What the server has after an exchange.

    :param vectors: Of each agent ``[A, P]``: decoded; of agents that did not send, what they sent last, if the gate holds it.
    :param sends: Who sent ``[A]``, bool.
    :param counts: Whose row counts ``[A]``, bool.
    :param bits: Size of each agent's message ``[A]``; ``None``: canonical, 32 bits a number.
    """

    vectors: Tensor
    sends: Tensor
    counts: Tensor
    bits: Tensor | None


class Uplink:
    """Takes the agents' vectors to the server.

    :param scheme: Its gate and codec.
    :param gate: The gate, built for A agents.
    :param agents: Their numbers ``[A]``, of which each draws by its own; ``None``: 0 to A - 1.
    :param seed: The run's, for codecs that draw.
    """

    def __init__(self, scheme: Scheme, gate: VectorGate, *, agents: ArrayLike | None = None, seed: int = 0) -> None:
        self._gate = gate
        self.codec: Codec = scheme.codec
        """What encodes the next messages."""
        self._all_send, self._is_exact = type(gate) is EveryGate, type(scheme.codec) is Identity
        self._feedback = scheme.error_feedback
        self._agents = np.arange(gate.num_agents) if agents is None else np.asarray(agents)
        self._seed = seed
        self._has_sent = torch.zeros(gate.num_agents, dtype=torch.bool)
        self._last: Tensor | None = None  # [A, P], what the server received last, where a gate decides
        self._memory: Tensor | None = None  # [A, P], of error feedback
        self._signals: dict[str, Tensor] = {}  # that came with what the server received last, [A] each

    @property
    def decides(self) -> bool:
        """Whether a gate chooses who sends."""
        return not self._all_send

    @property
    def is_open(self) -> bool:
        """Whether every agent sends, and what it has."""
        return self._all_send and self._is_exact

    @torch.no_grad()
    def transmit(
        self,
        vectors: Tensor,
        candidates: Tensor,
        *,
        step: int,
        scale: Tensor | None = None,
        gains: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Received:
        """Let the agents send.

        :param vectors: What each could send ``[A, P]``.
        :param candidates: Who can send ``[A]``, bool.
        :param step: How many exchanges came before.
        :param scale: See :class:`~rl_agg.gates.Offer`.
        :param gains: See :class:`~rl_agg.gates.Offer`.
        :param reference: What everyone knows ``[P]``, for a codec to encode differences from it; ``None``: nothing.
        """
        sends, decoded, bits = candidates, vectors, None
        last = None if self._all_send else self._fit_last(vectors)
        if last is not None:
            offer = Offer(vectors, last, self._has_sent, candidates, step, scale, gains, self._seed)
            sends = decided(self._gate, offer).to(candidates.device) & candidates
        if not self._is_exact:
            decoded, bits = self._encode(vectors, sends, step, reference)
        if last is None:
            return Received(decoded, sends, sends, bits)
        torch.where(sends[:, None], decoded, last, out=last)
        self._has_sent = self._has_sent | sends
        return Received(last, sends, candidates, bits) if self._gate.holds else Received(decoded, sends, sends, bits)

    def signals_of(self, signals: Signals, received: Received) -> Signals:
        """Signals as the server knows them: of agents whose last vector it holds, what they reported with it.

        :param signals: What all agents know now, each ``[A]``.
        :param received: What :meth:`transmit` gave.
        """
        if self._all_send or not self._gate.holds:
            return signals
        held = {}
        for name in REPORTED:
            value, known = getattr(signals, name), self._signals.get(name)
            if value is None:
                continue
            sent, silent = received.sends.to(value.device), (received.counts & ~received.sends).to(value.device)
            known = value if known is None else known.to(value)
            self._signals[name] = torch.where(sent, value, known)
            held[name] = torch.where(silent, known, value)
        return dataclasses.replace(signals, **held)

    def note_step(self, step: Tensor) -> None:
        """Let the gate know what the server stepped with ``[P]``."""
        self._gate.note_step(step)

    def _encode(self, vectors: Tensor, sends: Tensor, step: int, reference: Tensor | None) -> tuple[Tensor, Tensor]:
        """What is decoded of each agent that sends, zeros of the others ``[A, P]``, and the bits of each message ``[A]``."""
        decoded, bits = torch.zeros_like(vectors), torch.zeros(len(vectors), dtype=torch.int64)
        if not bool(sends.any()):
            return decoded, bits
        who = slice(None) if bool(sends.all()) else sends  # a slice does not copy
        senders = self._agents[sends.cpu().numpy()]
        encode = encoder(self.codec, Draws(self._seed, step, senders, unbiased=not self._feedback))
        rows = vectors[who] if reference is None else vectors[who] - reference
        if isinstance(self._feedback, str):
            memory = self._memory = fitted(self._memory, vectors)
            encoded, memory[who] = FEEDBACKS[self._feedback](rows, memory[who], encode)
        else:
            encoded = encode(rows)
        decoded[who] = encoded.decoded if reference is None else encoded.decoded + reference
        bits[sends.cpu()] = encoded.bits.to("cpu", torch.int64)
        return decoded, bits

    def _fit_last(self, vectors: Tensor) -> Tensor:
        """What the server received last; vectors of another size have not been sent yet."""
        if self._last is None or self._last.shape != vectors.shape:
            self._has_sent, self._signals = torch.zeros_like(self._has_sent), {}
        self._last, self._has_sent = fitted(self._last, vectors), self._has_sent.to(vectors.device)
        return self._last

    def state_dict(self) -> dict[str, Any]:
        """What was received last, and what error feedback and the gate remember; tensors on the CPU."""
        known = {"has_sent": self._has_sent, "last": self._last, "memory": self._memory}
        copies = {name: None if value is None else value.cpu().clone() for name, value in known.items()}
        signals = {name: value.cpu().clone() for name, value in self._signals.items()}
        return {**copies, "feedback": self._feedback, "signals": signals, "gate": self._gate.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict` of the same number of agents."""
        known: dict[str, Any] = {
            name: None if state[name] is None else state[name].clone() for name in ("has_sent", "last", "memory")
        }
        self._has_sent, self._last = known["has_sent"], known["last"]
        self._memory = known["memory"] if self._feedback == state["feedback"] else None
        self._signals = {name: value.clone() for name, value in state["signals"].items()}
        self._gate.load_state_dict(state["gate"])


def fitted(memory: Tensor | None, vectors: Tensor) -> Tensor:
    """Memory ``[A, P]`` on the device of some vectors; zeros if it is of another size."""
    return memory.to(vectors) if memory is not None and memory.shape == vectors.shape else torch.zeros_like(vectors)
