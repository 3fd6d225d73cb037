r"""Who speaks. Axes: A agents, P parameters.

A gate looks at what agents could send and decides who sends it; the learner goes on with what it got last from the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from rl_agg.validation import check_count, check_number, check_settings, unknown_choice

HUGE = 1e60
"""A squared norm below it is of finite numbers."""


class LazyGate:
    r"""Send a gradient only if it differs enough from the last one sent (LAG).

    With :math:`\hat g_a` the gradient that agent a sent last, it sends :math:`g_a` if

    .. math:: \lVert s \circ (g_a - \hat g_a) \rVert^2 \ge \xi \sum_{d=1}^{D} \lVert s \circ \bar g_{k-d} \rVert^2

    where :math:`\bar g_{k-d}` is the gradient, on the scale of a mean, that the learner took its step with d steps ago, and
    :math:`s` what its optimiser multiplies each parameter's gradient by, see :func:`~rl_agg.optimizers.step_scale`. For plain
    gradient descent on the sum of A losses with step size :math:`\alpha`, s = 1 and
    :math:`\lVert \bar g \rVert^2 = \lVert \Delta\theta \rVert^2 / (\alpha^2 A^2)`, which is the bound of the paper.

    :param num_agents: A.
    :param xi: :math:`\xi` >= 0; 0 lets everyone speak.
    :param window: D >= 1, steps that the bound looks back.
    :raises ValueError: if a setting is out of range.

    Source: Chen et al. (2018), equation 7a, with :math:`\xi = 1/D = 0.1`. Differs: gradients that were stepped with stand in
    for the change of the parameters, and both sides are measured as the optimiser sees them. Without s, what has the largest
    gradient decides: of PPO on CartPole the value loss, while the policy's gradients grow stale.
    """

    def __init__(self, num_agents: int, *, xi: float = 0.1, window: int = 10) -> None:
        check_number("xi", xi, least=0)
        check_count("window", window, least=1)
        self.xi = xi
        self.window = window
        self._has_sent = torch.zeros(num_agents, dtype=torch.bool)
        self._sent: Tensor | None = None  # [A, P]
        self._news: Tensor | None = None  # memory for [A, P]: getting it anew takes longer than filling it
        self._steps: Tensor | None = None  # [<= D, P], the last one first

    @torch.no_grad()
    def __call__(self, gradients: Tensor, present: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Decide who sends.

        :param gradients: What each agent could send ``[A, P]``.
        :param present: Whose gradient is finite ``[A]``, bool. The others do not send.
        :param scale: What the optimiser multiplies each parameter's gradient by ``[P]``; ``None``: all alike.
        :return: Who sends ``[A]``, bool, and the gradients that the learner then holds ``[A, P]``, until the next call.
        """
        if self._sent is None or self._sent.shape != gradients.shape:  # of other parameters, what was sent says nothing
            self._sent, self._has_sent = torch.zeros_like(gradients), torch.zeros_like(self._has_sent)
            self._news = None
        if self._steps is not None:
            self._steps = self._steps.to(gradients) if self._steps.shape[1] == gradients.shape[1] else None
        self._sent, self._has_sent = self._sent.to(gradients), self._has_sent.to(gradients.device)
        bound = 0.0 if self._steps is None else self.xi * float(_squared_norms(self._steps, scale).sum())
        self._news = gradients.new_empty(gradients.shape) if self._news is None else self._news.to(gradients)
        torch.sub(gradients, self._sent, out=self._news)
        innovations = _squared_norms(self._news if scale is None else self._news.mul_(scale), None)
        sends = present & (~self._has_sent | (innovations >= bound))
        if bool((innovations < HUGE).all()):  # all numbers are finite: in one pass, and exactly one or the other
            self._sent.lerp_(gradients, sends[:, None].to(gradients))
        else:
            self._sent[sends] = gradients[sends]
        self._has_sent = self._has_sent | sends
        return sends, self._sent

    def note_step(self, gradient: Tensor) -> None:
        """Tell it what the learner takes its step with.

        :param gradient: ``[P]``, on the scale of a mean, before clipping.
        """
        latest = gradient[None]
        self._steps = latest if self._steps is None else torch.cat([latest, self._steps])[: self.window]

    def __getstate__(self) -> dict[str, Any]:
        """For a pickle that opens on machines without a GPU too."""
        return {**vars(self), "_news": None, **{f"_{name}": value for name, value in self.state_dict().items()}}

    def state_dict(self) -> dict[str, Any]:
        """What was sent last, and the last steps; on the CPU, so that it can be read anywhere."""
        known = {"has_sent": self._has_sent, "sent": self._sent, "steps": self._steps}
        return {name: None if value is None else value.cpu().clone() for name, value in known.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from :meth:`state_dict`; afresh if it is of another number of agents."""
        self._has_sent, self._sent, self._steps = torch.zeros_like(self._has_sent), None, None
        if len(state["has_sent"]) == len(self._has_sent):
            known: dict[str, Any] = {name: None if value is None else value.clone() for name, value in state.items()}
            self._has_sent, self._sent, self._steps = known["has_sent"], known["sent"], known["steps"]


GATES: dict[str, Callable[..., LazyGate] | None] = {"every": None, "lag": LazyGate}
"""Gates for gradients by name; ``every`` is none."""


def make_gate(name: str, num_agents: int, settings: Mapping[str, Any]) -> LazyGate | None:
    """Build a gate by name.

    :param name: A name from :data:`GATES`.
    :param num_agents: A.
    :param settings: Its settings.
    :return: ``None`` where everyone always speaks.
    :raises ValueError: if the name, a setting or a value is unknown.
    """
    if name not in GATES:
        raise unknown_choice("communication", name, GATES)
    kind = GATES[name]
    if kind is None:
        check_settings(name, lambda: None, settings)
        return None
    check_settings(name, kind, settings, given=1)
    return kind(num_agents, **settings)


def _squared_norms(rows: Tensor, scale: Tensor | None) -> Tensor:
    """``[N, P]`` to ``[N]``, never infinite, for that times 0 is NaN, and nobody would speak."""
    norms: Tensor = torch.linalg.vector_norm(rows if scale is None else rows * scale, dim=1)
    return norms.double().clamp(max=1e150).square()
