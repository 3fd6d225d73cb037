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
    """

    def __init__(self, weighting: Weighting, signals: Signals, minibatches: Minibatches, sample_losses: SampleLosses) -> None:
        self.minibatches = minibatches
        self.skipped_steps = 0
        self._weighting = weighting
        self._signals = signals
        self._sample_losses = sample_losses
        self._rollout_weights = None if "losses" in weighting.needs else weighting(signals)
        self._steps: list[tuple[Tensor, int]] = []  # weights [A] and number of agents masked
        self._losses: list[Tensor] = []
        self._skip = False

    # What it saw ----------------------------------------------------------------------------------------------------------

    def weights(self) -> Tensor:
        """Weights used ``[steps, A]``; no steps if SB3 never asked for a gradient."""
        return torch.stack([weights for weights, _ in self._steps]) if self._steps else torch.empty(0)

    def num_masked(self) -> int:
        """Agents masked in the step that masked most of them."""
        absent = len(self.minibatches.present) - self.minibatches.num_present
        return absent + max((masked for _, masked in self._steps), default=0)

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
            for name, replacement in {"evaluate_actions": evaluate, "parameters": lambda: parameters}.items():
                vars(policy)[name] = replacement
                stack.callback(vars(policy).pop, name)
            yield

    def _weigh(self, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
        if self._rollout_weights is None:
            self._signals = dataclasses.replace(self._signals, losses=self._agent_losses(values, log_prob, entropy))
        outputs = (values, log_prob) if entropy is None else (values, log_prob, entropy)
        scaled = _ScaledGradient.apply(self, *outputs)  # type: ignore[no-untyped-call]
        return (*scaled, None) if entropy is None else scaled

    @torch.no_grad()
    def _agent_losses(self, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> Tensor:
        """Mean loss per agent ``[A]``: NaN without samples, infinite where a sample's loss is not finite."""
        samples, agents = self.minibatches.samples, self.minibatches.agents
        losses = self._sample_losses(samples, values, log_prob, entropy)
        counted = torch.ones_like(losses)
        if hasattr(samples, "mask"):  # padded sequences of a recurrent policy
            counted = samples.mask
            losses = torch.where(counted > 0, losses, 0.0)
        totals = losses.new_zeros(2, len(self.minibatches.present))
        sums, counts = totals.index_add_(1, agents, torch.stack([losses, counted]))
        means = sums / counts
        means = torch.where((counts > 0) & ~sums.isfinite(), torch.inf, means)
        self._losses.append(means)
        return means

    def scale(self, gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
        """Scale what comes back into the policy's outputs by :math:`c_n`.

        An agent with a non-finite gradient or loss is left out and the others are weighed anew.

        :param gradients: Of values ``[B, 1]``, log-probabilities ``[B]`` and entropies ``[B]``; ``None``: no gradient.
        """
        given = [gradient for gradient in gradients if gradient is not None]
        signals, finite = self._signals, bool(torch.stack([gradient.sum() for gradient in given]).sum().isfinite())
        if not finite:
            signals = dataclasses.replace(signals, present=~(signals.masked() | self._not_finite(given)))
        weights = self._rollout_weights
        if weights is None or not finite:
            weights = self._weighting(signals)
        masked = signals.masked()
        num_masked = int(masked.sum())
        self._skip = num_masked == len(masked)
        self._steps.append((weights, num_masked - (len(masked) - self.minibatches.num_present)))
        coefficients = (weights * self.minibatches.num_present).to(given[0].dtype)
        if finite and bool((coefficients == 1).all()):
            return gradients
        agents = self.minibatches.agents
        per_sample, left_out = coefficients[agents], masked[agents]

        def scaled(gradient: Tensor) -> Tensor:
            shape = (-1, *[1] * (gradient.ndim - 1))
            product = gradient * per_sample.view(shape)
            return product if finite else product.masked_fill(left_out.view(shape), 0.0)  # 0 * NaN is NaN

        return tuple(None if gradient is None else scaled(gradient) for gradient in gradients)

    def _not_finite(self, gradients: list[Tensor]) -> Tensor:
        """Agents with a non-finite gradient ``[A]``, bool."""
        flat = torch.stack([gradient.reshape(len(gradient), -1).sum(1) for gradient in gradients])
        mask = torch.zeros(len(self.minibatches.present), dtype=torch.bool, device=flat.device)
        mask[self.minibatches.agents[~flat.isfinite().all(0)]] = True
        return mask

    def _before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        if self._skip:  # nobody has a usable gradient
            optimizer.zero_grad(set_to_none=True)  # an optimiser leaves parameters without gradient as they are
            self.skipped_steps += 1


class _ScaledGradient(torch.autograd.Function):
    """Identity forwards; backwards, the gradients of all outputs are scaled at once by an update."""

    @staticmethod
    def forward(ctx: Any, update: WeightedUpdate, *outputs: Tensor) -> tuple[Tensor, ...]:
        ctx.update = update
        return tuple(output.view_as(output) for output in outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        return (None, *ctx.update.scale(gradients))


@contextmanager
def _unvalidated_distributions() -> Iterator[None]:
    """Leave out torch's check of every distribution's arguments: a tenth of an update, and masks answer it here."""
    validated = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(validated)
