r"""Hooks around SB3's own ``train()``, and what they have in common. Axes: A agents, B samples of a minibatch.

SB3 minimises the mean of the samples' losses, and each sample's loss reaches the parameters only through what
``policy.evaluate_actions`` returns. So an update is changed there and just before the optimiser's step, not in ``train()``.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributions import Distribution

from rl_agg import Ledger, Signals, Weighting
from rl_agg.weighting import has_mixed_signs
from sb3_agg.hooks.patching import replaced
from sb3_agg.rollouts.minibatches import Minibatches

Outputs = tuple[Tensor, Tensor, Tensor | None]
"""Values ``[B, 1]``, log-probabilities ``[B]`` and entropies ``[B]`` or ``None``."""

SampleLosses = Callable[..., Tensor]
"""``losses(samples, values, log_prob, entropy) -> [B]``"""


class Update(ABC):
    """The hooks of one call of ``train()`` and what they saw.

    :param weighting: The rule; ``None`` where no weights are given out.
    :param signals: Returns, sample counts and presence of the agents, ``[A]``.
    :param minibatches: What the rollout buffer serves.
    :param sample_losses: Loss per sample, for rules that need losses.

    ``num_evaluated`` counts minibatches, ``num_steps`` those that were stepped with (PPO's ``target_kl`` may end an update
    before), ``skipped_steps`` those without a usable gradient, and ``num_masked`` the agents masked in the step that masked
    most of them.
    """

    def __init__(
        self,
        weighting: Weighting | None,
        signals: Signals,
        minibatches: Minibatches,
        sample_losses: SampleLosses | None = None,
    ) -> None:
        self.minibatches = minibatches
        self.num_evaluated = 0
        self.num_steps = 0
        self.skipped_steps = 0
        self.num_masked = len(minibatches.present) - minibatches.num_present
        self._signals = _needed(signals, weighting)
        self._num_signals = 0 if weighting is None else len(weighting.needs)
        self._needs_losses = weighting is not None and "losses" in weighting.needs
        self._sample_losses = sample_losses
        self._weights: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._skip = False
        self._masked: Tensor | None = None  # in this step
        self._num_unsent = np.zeros(len(minibatches.present), dtype=np.int64)
        self.num_parameters = 0
        """P, those that are trained."""

    # What it saw ----------------------------------------------------------------------------------------------------------

    def num_sent(self) -> NDArray[np.int64]:
        """Gradients that each agent sent ``[A]``."""
        return self.num_steps * self.minibatches.present.astype(np.int64) - self._num_unsent

    def weights(self) -> Tensor:
        """Weights used ``[steps, A]``; no steps where none were given out."""
        return torch.stack(self._weights) if self._weights else torch.empty(0)

    def num_mixed_sign(self) -> int:
        """Steps in which the losses had mixed signs."""
        losses = self._losses[: self.num_steps]
        return int(has_mixed_signs(torch.stack(losses)).sum()) if losses else 0

    def finish(self, ledger: Ledger) -> None:
        """Count what agents sent and got in this update.

        :param ledger: What to count it in.
        """
        ledger.upload(self.num_sent(), gradients=self.num_parameters, scalars=self._num_signals)
        everyone = np.ones(len(self.minibatches.present), dtype=np.int64)  # who was masked acts by the answer too
        ledger.download(self.num_steps * everyone, parameters=self.num_parameters)

    # Hooks ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def hooked(self, policy: Any) -> Iterator[None]:
        """Change every gradient step taken inside.

        :param policy: SB3's actor-critic policy.
        """
        evaluate_actions = policy.evaluate_actions
        parameters = list(policy.parameters())  # SB3 walks the module tree for them at every step
        self.num_parameters = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)

        def evaluate(*args: Any, **kwargs: Any) -> Outputs:
            self.num_evaluated += 1
            self._skip, self._masked = False, None
            return self.evaluate(evaluate_actions, *args, **kwargs)

        with ExitStack() as stack:
            stack.enter_context(self.minibatches.served())
            stack.enter_context(_unvalidated_distributions())
            stack.callback(policy.optimizer.register_step_pre_hook(self.before_step).remove)
            stack.enter_context(replaced(policy, evaluate_actions=evaluate, parameters=lambda recurse=True: iter(parameters)))
            yield

    @abstractmethod
    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Stand in for the policy's ``evaluate_actions``.

        :param evaluate_actions: The policy's own.
        :return: Values ``[B, 1]``, log-probabilities ``[B]`` and entropies ``[B]``, if there are any.
        """

    def before_step(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        """Called when the optimiser is about to step."""
        self.num_steps += 1
        silent = self._masked
        if not self.minibatches.equal_parts:
            idle = self.minibatches.samples_per_agent() == 0
            silent = idle if silent is None else silent | idle
        if silent is not None:
            self._num_unsent += silent.cpu().numpy() & self.minibatches.present
        if self._skip:  # nobody has a usable gradient
            optimizer.zero_grad(set_to_none=True)  # an optimiser leaves parameters without gradient as they are
            self.skipped_steps += 1

    # Signals --------------------------------------------------------------------------------------------------------------

    def _note_losses(self, *outputs: Tensor | None) -> None:
        """Put the agents' losses in this minibatch among their signals."""
        self._signals = dataclasses.replace(self._signals, losses=self._agent_losses(*outputs))

    @torch.no_grad()
    def _agent_losses(self, *outputs: Tensor | None) -> Tensor:
        """Mean loss per agent ``[A]``: NaN without samples, infinite where a sample's loss is not finite."""
        assert self._sample_losses is not None
        losses = self._sample_losses(self.minibatches.samples, *outputs)
        means = self.minibatches.mean_per_agent(losses)
        if not bool(means.isfinite().all()):
            means = torch.where((self.minibatches.samples_per_agent() > 0) & ~means.isfinite(), torch.inf, means)
            self._note_masked(means.isinf())
        self._losses.append(means)
        return means

    def _note_masked(self, masked: Tensor) -> None:
        self._masked = masked | ~torch.as_tensor(self.minibatches.present, device=masked.device)
        self.num_masked = max(self.num_masked, int(self._masked.sum()))
        self._skip = bool(self._masked.all())


class DetachedUpdate(Update):
    """An update whose loss knows nothing of the parameters.

    SB3 gets copies of the policy's outputs, and its backward pass ends on them. What it leaves there, the gradient of its loss
    with respect to the outputs, is taken further from here, agent by agent.
    """

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._outputs: list[Tensor] = []
        self._copies: list[Tensor] = []

    def _detach(self, outputs: Sequence[Tensor | None]) -> Outputs:
        copies = [None if output is None else output.detach().requires_grad_() for output in outputs]
        pairs = [
            (output, copy)
            for output, copy in zip(outputs, copies, strict=True)
            if output is not None and copy is not None and output.requires_grad
        ]
        self._outputs, self._copies = [output for output, _ in pairs], [copy for _, copy in pairs]
        values, log_prob, entropy = copies
        assert values is not None
        assert log_prob is not None
        return values, log_prob, entropy

    def _output_gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs of the policy that have a gradient, and these: of each agent's mean loss, not of the mean of all."""
        pairs = [
            (output, copy.grad * self.minibatches.num_present)
            for output, copy in zip(self._outputs, self._copies, strict=True)
            if copy.grad is not None
        ]
        return [output for output, _ in pairs], [gradient for _, gradient in pairs]


def _needed(signals: Signals, weighting: Weighting | None) -> Signals:
    """Presence of the agents, and of their signals those alone that the rule reads."""
    needs = () if weighting is None else weighting.needs
    return Signals(present=~signals.masked(), **{name: getattr(signals, name) for name in needs})


def beside(gradient: Tensor, per_sample: Tensor) -> Tensor:
    """Shape one value per sample ``[B]`` so that it multiplies a gradient ``[B, ...]``."""
    return per_sample if gradient.ndim == 1 else per_sample.view(-1, *[1] * (gradient.ndim - 1))


@contextmanager
def _unvalidated_distributions() -> Iterator[None]:
    """Leave out torch's check of every distribution's arguments: a tenth of an update, and masks answer it here."""
    validated = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(validated)
