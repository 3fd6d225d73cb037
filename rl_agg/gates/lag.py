"""LAG's innovation test. Axes: A agents, P parameters."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rl_agg.byte_budget import Knob
from rl_agg.gates.base import Offer, VectorGate
from rl_agg.validation import check_count, check_number

BOUNDS = (1e-6, 1e6)
r"""Of a :math:`\xi` that a budget moves."""


class LazyGate(VectorGate):
    r"""Send a vector only if it differs enough from the last one sent (LAG).

    With :math:`\hat g_a` what the server received last from agent a, the agent sends :math:`g_a` if

    .. math:: \lVert s \circ (g_a - \hat g_a) \rVert^2 \ge \xi \sum_{d=1}^{D} \lVert s \circ \bar g_{k-d} \rVert^2

    where :math:`\bar g_{k-d}` is the gradient, on the scale of a mean, that the learner took its step with d steps ago, and
    :math:`s` what its optimiser multiplies each parameter's gradient by, see :func:`~rl_agg.optimizers.step_scale`. For plain
    gradient descent on the sum of A losses with step size :math:`\alpha`, s = 1 and
    :math:`\lVert \bar g \rVert^2 = \lVert \Delta\theta \rVert^2 / (\alpha^2 A^2)`, which is the bound of the paper.
    Over parameters, g are parameters, :math:`\bar g` is the change of the merged ones, and s = 1.

    :param num_agents: A.
    :param xi: :math:`\xi` >= 0; with 0 everyone sends.
    :param window: D >= 1, steps that the bound looks back.
    :raises ValueError: if a setting is out of range.

    Source: Chen et al. (2018), equation 7a, with :math:`\xi = 1/D = 0.1`. Differs: gradients that were stepped with stand in
    for the change of the parameters, and both sides are measured as the optimiser sees them. Without s, what has the largest
    gradient decides: of PPO on CartPole the value loss, while the policy's gradients grow stale.
    """

    def __init__(self, num_agents: int, *, xi: float = 0.1, window: int = 10) -> None:
        check_number("xi", xi, least=0)
        check_count("window", window, least=1)
        super().__init__(num_agents)
        self.xi = xi
        self.window = window
        self._differences: Tensor | None = None  # memory for [A, P]: allocating it takes longer than filling it
        self._steps: Tensor | None = None  # [<= D, P], the latest first

    @property
    def knob(self) -> Knob | None:
        r""":math:`\xi`."""
        return Knob("xi", self.xi, *BOUNDS, sends_more=False)

    @torch.no_grad()
    def decide(self, offer: Offer) -> Tensor:
        """Send what differs from the last by more than the bound, and whatever comes first."""
        vectors, scale = offer.vectors, offer.scale
        if self._steps is not None:  # of other parameters, the last steps say nothing
            self._steps = self._steps.to(vectors) if self._steps.shape[1] == vectors.shape[1] else None
        bound = 0.0 if self._steps is None else self.xi * float(_squared_norms(self._steps, scale).sum())
        memory = self._differences
        if memory is None or memory.shape != vectors.shape:
            memory = vectors.new_empty(vectors.shape)
        self._differences = torch.sub(vectors, offer.last, out=memory.to(vectors))
        innovations = _squared_norms(self._differences if scale is None else self._differences.mul_(scale), None)
        return ~offer.has_sent | (innovations >= bound)

    def note_step(self, step: Tensor) -> None:
        """Remember the last D steps."""
        latest = step[None]
        self._steps = latest if self._steps is None else torch.cat([latest, self._steps])[: self.window]

    def state_dict(self) -> dict[str, Any]:
        """The last steps."""
        return {"steps": None if self._steps is None else self._steps.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`."""
        steps = state["steps"]
        self._steps = None if steps is None else steps.clone()


def _squared_norms(rows: Tensor, scale: Tensor | None) -> Tensor:
    """``[N, P]`` to ``[N]``, never infinite: infinity times 0 is NaN, with which no comparison holds."""
    norms: Tensor = torch.linalg.vector_norm(rows if scale is None else rows * scale, dim=1)
    return norms.double().clamp(max=1e150).square()
