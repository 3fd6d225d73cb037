r"""Gradient steps that weigh the agents, in SB3's own backward passes. Axes: A agents, B samples of a minibatch.

SB3 minimises :math:`\frac{1}{B} \sum_n \ell_n`. Scaling the gradient with respect to a network's outputs by

.. math:: c_n = w_{a(n)} \frac{B}{n_{a(n)}}

turns its backward pass into that of :math:`\sum_a w_a L_a`, where :math:`L_a` is the mean loss of agent a's :math:`n_a`
samples.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb3_agg.off_policy.algorithms import Part
from sb3_agg.off_policy.hooks import Update
from sb3_agg.off_policy.minibatches import Batch
from sb3_agg.scaled_gradient import ScaledGradient, shaped


class WeightedUpdate(Update):
    """Gradients weighed by a rule."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._reset()
        self._left_out: dict[Part, Tensor] = {}
        self._ahead: Tensor | None = None
        """Weights ``[A]``, where they are the same in all minibatches without masked agents."""
        self._known: tuple[Tensor, Tensor, Tensor | None] | None = None

    def _reset(self) -> None:
        """Nothing is left to charge."""
        parts = self.algorithm.parts
        self._steps, self._steps_of_all = dict.fromkeys(parts, 0), dict.fromkeys(parts, 0)
        self._sent = {part: np.zeros(self.rule.num_agents, dtype=np.int64) for part in parts}  # in the other steps

    def _note_returns(self) -> None:
        super()._note_returns()
        self._ahead = self.rule.weigh(self._lasting) if self.needs <= {"returns"} else None

    def evaluate(self, part: Part, batch: Batch, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The network's outputs, which will scale the gradients of SB3's backward pass."""
        outputs = method(*args, **kwargs)
        scale = partial(self.scale, part, batch)
        if not isinstance(outputs, tuple):
            (scaled,) = ScaledGradient.apply(scale, outputs)  # type: ignore[no-untyped-call]
            return scaled
        return ScaledGradient.apply(scale, *outputs)  # type: ignore[no-untyped-call]

    def _weigh(self, batch: Batch) -> tuple[Tensor, Tensor]:
        if self._ahead is not None and batch.masked is None and self._without_samples(batch) is None:
            return self._ahead, self._present
        return super()._weigh(batch)

    def scale(self, part: Part, batch: Batch, gradients: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Scale the gradients with respect to a network's outputs.

        :param gradients: ``[B, ...]`` each.
        :return: The same, scaled. An agent with a non-finite gradient is left out and the others' weights computed again.
        """
        if batch.masked is None and all(math.isfinite(gradient.sum()) for gradient in gradients):
            weights, present = self._weigh(batch)
        else:
            masked = self._left_out[part] = self._not_finite(batch, gradients)
            signals = self.signals(batch, masked)
            weights, present = self.rule.weigh(signals), ~signals.masked()
            out = masked[batch.agents]
            gradients = tuple(gradient.masked_fill(shaped(out, gradient), 0.0) for gradient in gradients)  # 0 * NaN is NaN
        if present is not self._present or not self.all_present:
            self._note_masked(batch, ~present)
        self.weights.append((weights, present))
        per_sample = self._per_sample(weights, batch)
        return gradients if per_sample is None else tuple(gradient * shaped(per_sample, gradient) for gradient in gradients)

    def _per_sample(self, weights: Tensor, batch: Batch) -> Tensor | None:
        """:math:`c_n` ``[B]``; ``None`` where all are 1."""
        if self._known is not None and self._known[0] is weights and self._known[1] is batch.agents:
            return self._known[2]
        coefficients = weights.double() * self._scales(batch)
        is_one = float((coefficients - 1).abs().max()) <= 1e-12
        per_sample = None if is_one else coefficients.float()[batch.agents]
        self._known = (weights, batch.agents, per_sample)
        return per_sample

    def _not_finite(self, batch: Batch, gradients: tuple[Tensor, ...]) -> Tensor:
        """Agents with a non-finite sample or gradient ``[A]``, bool."""
        finite = torch.stack([gradient.view(len(gradient), -1).isfinite().all(1) for gradient in gradients]).all(0)
        mask = torch.zeros_like(self._present) if batch.masked is None else batch.masked.clone()
        mask[batch.agents[~finite]] = True
        return mask

    def prepare_step(self, part: Part, batch: Batch, optimizer: torch.optim.Optimizer) -> bool:
        """Count whose gradients are in the step."""
        self._steps[part] += 1
        left_out = self._left_out.pop(part, None)
        if left_out is None and batch.equal_parts and self.all_present:
            self._steps_of_all[part] += 1
            return True
        senders = self._present & (batch.counts > 0)
        sent = (senders if left_out is None else senders & ~left_out).cpu().numpy()
        self._sent[part] += sent
        return bool(sent.any())

    def settle(self) -> None:
        """Charge the exchanges for the messages that the backward passes stood for: not in each, which would take longer."""
        if not any(self._steps.values()):
            return
        for part, steps in self._steps.items():
            sent = self._sent[part] + self._steps_of_all[part]
            size = sum(parameter.numel() for parameter in self.trained(part))
            answers = np.full(len(sent), steps)  # masked agents act by the new parameters too
            self.exchanges[part.optimizer].charge(sent, answers, up={"gradients": size}, down={"parameters": size})
        self._reset()
