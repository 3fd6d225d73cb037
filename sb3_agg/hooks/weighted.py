r"""One weighted update inside SB3's own ``train()``. Axes: A agents, B samples of a minibatch.

Every agent has the same part :math:`B/A` of the mean that SB3 minimises. Scaling the gradient with respect to the policy's
outputs by

.. math:: c_n = w_{a(n)} A

turns SB3's one backward pass into that of :math:`\sum_a w_a L_a`, where :math:`L_a` is agent a's mean loss.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sb3_agg.hooks.base import Update
from sb3_agg.rollouts.losses import Outputs
from sb3_agg.scaled_gradient import ScaledGradient, shaped


class WeightedUpdate(Update):
    """Gradients weighed by a rule, in one backward pass."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._rollout_weights = None if self._needs_losses else self.exchange.weigh(self._signals)
        self._num_sent = torch.zeros_like(self._present, dtype=torch.long)
        self._coefficients: tuple[Tensor, Tensor | None] | None = None

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """The policy's outputs, which will scale the gradients of SB3's backward pass."""
        outputs = evaluate_actions(*args, **kwargs)
        if self._needs_losses:
            self._add_losses(*outputs)
        weights = self._current_weights()
        scale = partial(self.scale, weights, self._per_sample(weights))
        given = [output for output in outputs if output is not None]
        scaled = iter(ScaledGradient.apply(scale, *given))  # type: ignore[no-untyped-call]
        return tuple(None if output is None else next(scaled) for output in outputs)

    def _step(self, form: Any, gradients: Any) -> None:
        """Step with the weighted sum of the agents' gradients, taken in one pass."""
        weights = self._current_weights()
        per_sample = self._per_sample(weights)
        form.evaluation.backward(*(gradients if per_sample is None else _scaled(gradients, per_sample)))
        norm = form.norm()
        if math.isfinite(norm):
            self._note_weights(weights)
        else:
            form.evaluation.evaluate(self.minibatches.samples)
            form.evaluation.backward(*self.scale(weights, per_sample, gradients))
            norm = form.norm()
        self._count_senders()
        with self.at_learner(form.flat.parameters):
            if not self._skip:
                form.step(norm, self._max_grad_norm)

    def _current_weights(self) -> Tensor:
        return self.exchange.weigh(self._signals) if self._rollout_weights is None else self._rollout_weights

    def prepare_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Count whose gradients are in the step."""
        self._count_senders()

    def _count_senders(self) -> None:
        senders = self._present if self._masked is None else ~self._masked
        self._num_sent += senders if self.minibatches.equal_parts else senders & (self.minibatches.samples_per_agent() > 0)

    def finish(self) -> None:
        """Charge the exchange for the messages that the backward passes stood for."""
        answers = np.full(len(self._num_sent), self.num_steps)  # masked agents act by the new parameters too
        size = self.num_parameters
        self.exchange.charge(self._num_sent.cpu().numpy(), answers, up={"gradients": size}, down={"parameters": size})

    def _per_sample(self, weights: Tensor) -> Tensor | None:
        """:math:`c_n` ``[B]``; ``None`` where all are 1."""
        agents = self.minibatches.agents
        of_rollout = weights is self._rollout_weights
        if of_rollout and self._coefficients is not None and self._coefficients[0] is agents:
            return self._coefficients[1]
        coefficients = (weights * self.minibatches.num_present).to(torch.float32)
        if not of_rollout:
            return coefficients[agents]
        per_sample = None if bool((coefficients == 1).all()) else coefficients[agents]
        self._coefficients = (agents, per_sample)
        return per_sample

    def scale(
        self, weights: Tensor, per_sample: Tensor | None, gradients: tuple[Tensor | None, ...]
    ) -> tuple[Tensor | None, ...]:
        """Scale the gradients with respect to the policy's outputs.

        :param weights: ``[A]``.
        :param per_sample: Their :math:`c_n` ``[B]``; ``None`` where all are 1.
        :param gradients: Of the policy's outputs ``[B, ...]``; ``None``: no gradient.
        :return: The same, scaled. An agent with a non-finite gradient is left out and the others' weights computed again.
        """
        if not all(bool(gradient.sum().isfinite()) for gradient in gradients if gradient is not None):
            masked = self._signals.masked() | self._not_finite([item for item in gradients if item is not None])
            weights = self.exchange.weigh(dataclasses.replace(self._signals, present=~masked))
            self._mask(masked)
            per_sample, left_out = self._per_sample(weights), masked[self.minibatches.agents]
            gradients = tuple(  # 0 * NaN is NaN
                None if gradient is None else gradient.masked_fill(shaped(left_out, gradient), 0.0) for gradient in gradients
            )
        self._note_weights(weights)
        return gradients if per_sample is None else _scaled(gradients, per_sample)

    def _not_finite(self, gradients: list[Tensor]) -> Tensor:
        """Agents with a non-finite gradient ``[A]``, bool."""
        flat = torch.stack([gradient.reshape(len(gradient), -1).sum(1) for gradient in gradients])
        mask = torch.zeros(len(self.minibatches.present), dtype=torch.bool, device=flat.device)
        mask[self.minibatches.agents[~flat.isfinite().all(0)]] = True
        return mask


def _scaled(gradients: tuple[Tensor | None, ...], per_sample: Tensor) -> tuple[Tensor | None, ...]:
    return tuple(None if gradient is None else gradient * shaped(per_sample, gradient) for gradient in gradients)
