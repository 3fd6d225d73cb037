r"""One weighted update inside SB3's own ``train()``. Axes: A agents, B samples of a minibatch.

Every agent has the same part :math:`B/A` of the mean that SB3 minimises. Scaling the gradient that comes back into the
policy's outputs by

.. math:: c_n = w_{a(n)} A

turns SB3's one backward pass into that of :math:`\sum_a w_a L_a`, where :math:`L_a` is agent a's mean loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rl_agg import Signals, Weighting
from sb3_agg.hooks.base import Outputs, SampleLosses, Update, beside
from sb3_agg.rollouts.minibatches import Minibatches


class WeightedUpdate(Update):
    """Gradients that a rule weighs, at the price of one backward pass.

    :param weighting: The rule.
    """

    def __init__(self, weighting: Weighting, signals: Signals, minibatches: Minibatches, sample_losses: SampleLosses) -> None:
        super().__init__(weighting, signals, minibatches, sample_losses)
        self._weighting = weighting
        self._rollout_weights = None if self._needs_losses else weighting(self._signals)
        self._coefficients: tuple[Tensor, Tensor | None] | None = None

    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """The policy's outputs, which will scale the gradients that come back."""
        values, log_prob, entropy = evaluate_actions(*args, **kwargs)
        if self._rollout_weights is None:
            self._note_losses(values, log_prob, entropy)
        weights = self._weighting(self._signals) if self._rollout_weights is None else self._rollout_weights
        outputs = (values, log_prob) if entropy is None else (values, log_prob, entropy)
        scaled = _ScaledGradient.apply(self, weights, self._per_sample(weights), *outputs)  # type: ignore[no-untyped-call]
        return (*scaled, None) if entropy is None else scaled

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
        """Scale what comes back into the policy's outputs.

        :param weights: ``[A]``.
        :param per_sample: Their :math:`c_n` ``[B]``; ``None`` where all are 1.
        :param gradients: Of values ``[B, 1]``, log-probabilities ``[B]`` and entropies ``[B]``; ``None``: no gradient.
        :return: The same, scaled. An agent with a non-finite gradient is left out and the others are weighed anew.
        """
        if not all(bool(gradient.sum().isfinite()) for gradient in gradients if gradient is not None):
            masked = self._not_finite([gradient for gradient in gradients if gradient is not None])
            weights = self._weighting(dataclasses.replace(self._signals, present=~(self._signals.masked() | masked)))
            self._note_masked(self._signals.masked() | masked)
            per_sample, left_out = self._per_sample(weights), masked[self.minibatches.agents]
            gradients = tuple(  # 0 * NaN is NaN
                None if gradient is None else gradient.masked_fill(beside(gradient, left_out), 0.0) for gradient in gradients
            )
        self._weights.append(weights)
        if per_sample is None:
            return gradients
        return tuple(None if gradient is None else gradient * beside(gradient, per_sample) for gradient in gradients)

    def _not_finite(self, gradients: list[Tensor]) -> Tensor:
        """Agents with a non-finite gradient ``[A]``, bool."""
        flat = torch.stack([gradient.reshape(len(gradient), -1).sum(1) for gradient in gradients])
        mask = torch.zeros(len(self.minibatches.present), dtype=torch.bool, device=flat.device)
        mask[self.minibatches.agents[~flat.isfinite().all(0)]] = True
        return mask


class _ScaledGradient(torch.autograd.Function):
    """Identity forwards; backwards, the gradients of all outputs are scaled at once by an update."""

    @staticmethod
    def forward(
        ctx: Any, update: WeightedUpdate, weights: Tensor, per_sample: Tensor | None, *outputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.update, ctx.weights, ctx.per_sample = update, weights, per_sample
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, None, None, *ctx.update.scale(ctx.weights, ctx.per_sample, gradients))
