r"""One weighted update inside SB3's own ``train()``. Axes: A agents, B samples of a minibatch.

SB3 minimises the mean of the samples' losses, in which every agent has the same part :math:`B/A`. Each sample's loss reaches
the parameters only through what ``policy.evaluate_actions`` returns, so scaling the gradient that comes back into those
outputs by

.. math:: c_n = w_{a(n)} A

turns SB3's one backward pass into that of :math:`\sum_a w_a L_a`, where :math:`L_a` is agent a's mean loss.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from rl_agg import Signals, Weighting
from rl_agg.weighting import has_mixed_signs
from sb3_agg.minibatches import Minibatches

SampleLosses = Callable[[Any, Tensor, Tensor, Tensor | None], Tensor]
"""``losses(samples, values, log_prob, entropy) -> [B]``"""


class WeightedUpdate:
    """The hooks of one call of ``train()`` and what they saw.

    :param weighting: The rule.
    :param signals: Returns, sample counts and presence of the agents, ``[A]``.
    :param minibatches: What the rollout buffer serves.
    :param sample_losses: Loss per sample, for rules that need losses.

    ``num_evaluated`` counts minibatches, ``skipped_steps`` those without a usable gradient, and ``num_masked`` the agents
    masked in the step that masked most of them.
    """

    def __init__(self, weighting: Weighting, signals: Signals, minibatches: Minibatches, sample_losses: SampleLosses) -> None:
        self.minibatches = minibatches
        self.num_evaluated = 0
        self.skipped_steps = 0
        self._weighting = weighting
        self._signals = _needed(signals, weighting)
        self._sample_losses = sample_losses
        self._rollout_weights = None if "losses" in weighting.needs else weighting(self._signals)
        self._coefficients: tuple[Tensor, Tensor | None] | None = None
        self._weights: list[Tensor] = []
        self._losses: list[Tensor] = []
        self.num_masked = len(minibatches.present) - minibatches.num_present
        self._skip = False

    # What it saw ----------------------------------------------------------------------------------------------------------

    def weights(self) -> Tensor:
        """Weights used ``[steps, A]``; no steps if SB3 never asked for a gradient."""
        return torch.stack(self._weights) if self._weights else torch.empty(0)

    def num_mixed_sign(self) -> int:
        """Steps in which the losses had mixed signs."""
        return int(has_mixed_signs(torch.stack(self._losses)).sum()) if self._losses else 0

    # Hooks ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def hooked(self, policy: Any) -> Iterator[None]:
        """Weigh every gradient step taken inside.

        :param policy: SB3's actor-critic policy.
        """
        evaluate_actions = policy.evaluate_actions
        parameters = list(policy.parameters())  # SB3 walks the module tree for them at every step

        def evaluate(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor, Tensor | None]:
            return self._weigh(*evaluate_actions(*args, **kwargs))

        with ExitStack() as stack:
            stack.enter_context(self.minibatches.served())
            stack.enter_context(_unvalidated_distributions())
            stack.callback(policy.optimizer.register_step_pre_hook(self._before_step).remove)
            for name, replacement in {
                "evaluate_actions": evaluate,
                "parameters": lambda recurse=True: iter(parameters),
            }.items():
                vars(policy)[name] = replacement
                stack.callback(vars(policy).pop, name)
            yield

    def _weigh(self, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        self.num_evaluated += 1
        self._skip = False
        if self._rollout_weights is None:
            self._signals = dataclasses.replace(self._signals, losses=self._agent_losses(values, log_prob, entropy))
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

    @torch.no_grad()
    def _agent_losses(self, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> Tensor:
        """Mean loss per agent ``[A]``: NaN without samples, infinite where a sample's loss is not finite."""
        losses = self._sample_losses(self.minibatches.samples, values, log_prob, entropy)
        means = self.minibatches.mean_per_agent(losses)
        if not bool(means.isfinite().all()):
            means = torch.where((self.minibatches.samples_per_agent() > 0) & ~means.isfinite(), torch.inf, means)
            self._note_masked(means.isinf())
        self._losses.append(means)
        return means

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
                None if gradient is None else gradient.masked_fill(_beside(gradient, left_out), 0.0) for gradient in gradients
            )
        self._weights.append(weights)
        if per_sample is None:
            return gradients
        return tuple(None if gradient is None else gradient * _beside(gradient, per_sample) for gradient in gradients)

    def _not_finite(self, gradients: list[Tensor]) -> Tensor:
        """Agents with a non-finite gradient ``[A]``, bool."""
        flat = torch.stack([gradient.reshape(len(gradient), -1).sum(1) for gradient in gradients])
        mask = torch.zeros(len(self.minibatches.present), dtype=torch.bool, device=flat.device)
        mask[self.minibatches.agents[~flat.isfinite().all(0)]] = True
        return mask

    def _note_masked(self, masked: Tensor) -> None:
        absent = ~torch.as_tensor(self.minibatches.present, device=masked.device)
        self.num_masked = max(self.num_masked, int((masked | absent).sum()))
        self._skip = bool((masked | absent).all())

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._skip:  # nobody has a usable gradient
            optimizer.zero_grad(set_to_none=True)  # an optimiser leaves parameters without gradient as they are
            self.skipped_steps += 1


def _needed(signals: Signals, weighting: Weighting) -> Signals:
    """Presence of the agents, and of their signals those alone that the rule reads."""
    return Signals(present=~signals.masked(), **{name: getattr(signals, name) for name in weighting.needs})


def _beside(gradient: Tensor, per_sample: Tensor) -> Tensor:
    """Shape one value per sample ``[B]`` so that it multiplies a gradient ``[B, ...]``."""
    return per_sample if gradient.ndim == 1 else per_sample.view(-1, *[1] * (gradient.ndim - 1))


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


@contextmanager
def _unvalidated_distributions() -> Iterator[None]:
    """Leave out torch's check of every distribution's arguments: a tenth of an update, and masks answer it here."""
    validated = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(validated)
