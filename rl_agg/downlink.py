r"""The way from the learner to the agents: differences from what they hold, encoded. Axes: A agents, P parameters.

With :math:`\theta` the learner's parameters and :math:`\hat\theta` those that agents hold, act by and differentiate at, the
learner sends

.. math:: c = C(\theta - \hat\theta), \qquad \hat\theta \leftarrow \hat\theta + c

so that what a message loses, :math:`\theta - \hat\theta`, is a part of the next one.

Source: Gruntkowska et al. (2023), EF21-P and friends, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from rl_agg.codecs import Codec, Draws, encoder


class Downlink:
    """Takes the learner's parameters to agents that all hold the same, or to one of them.

    :param codec: Encodes differences.
    :param seed: The run's, for codecs that draw.
    """

    def __init__(self, codec: Codec, *, seed: int) -> None:
        self._codec, self._seed = codec, seed
        self._num_sent = 0
        self._lost: Tensor | None = None  # [P], by how much the learner is ahead of what all agents hold

    def ahead_of(self, held: Tensor) -> Tensor:
        r"""The learner's parameters :math:`\theta` ``[P]``, from what all agents hold ``[P]``; of another size, these."""
        return held if self._lost is None or self._lost.shape != held.shape else held + self._lost.to(held)

    def send_to_all(self, parameters: Tensor, held: Tensor) -> tuple[Tensor, int]:
        """Broadcast, and remember what is lost.

        :param parameters: The learner's ``[P]``.
        :param held: By all agents ``[P]``.
        :return: What they hold then ``[P]``, and the bits of the message.
        """
        known, bits = self.send(parameters, held)
        self._lost = parameters - known
        return known, bits

    def send(self, parameters: Tensor, held: Tensor, agent: int = 0) -> tuple[Tensor, int]:
        """Send, where the caller knows what is lost.

        :param parameters: The learner's ``[P]``.
        :param held: By the agent ``[P]``.
        :param agent: Its number, by which codecs draw.
        :return: What it holds then ``[P]``, and the bits of the message.
        """
        draws = Draws(self._seed, self._num_sent, np.array([agent]), unbiased=False, purpose="broadcast")
        encoded = encoder(self._codec, draws)((parameters - held)[None])
        self._num_sent += 1
        return held + encoded.decoded[0], int(encoded.bits[0])

    def state_dict(self) -> dict[str, Any]:
        """What was lost, and what draws depend on; tensors on the CPU."""
        lost = None if self._lost is None else self._lost.cpu().clone()
        return {"num_sent": self._num_sent, "lost": lost}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        self._num_sent = state["num_sent"]
        self._lost = None if state["lost"] is None else state["lost"].clone()
