r"""Hooks around SB3's own ``train()``. Axes: A agents, B samples of a minibatch, P parameters.

SB3 minimises the mean of the samples' losses, and each sample's loss reaches the parameters only through what
``policy.evaluate_actions`` returns. So an update is changed there and just before the optimiser's step, not in ``train()``.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from rl_agg import Exchange, Signals
from rl_agg.rules import has_mixed_signs
from sb3_agg.patching import temporarily
from sb3_agg.rollouts.losses import Outputs, SampleLosses
from sb3_agg.rollouts.minibatches import Minibatches


class Update(ABC):
    """The hooks of one call of ``train()``, and what they record.

    :param exchange: What the agents exchange with the learner, and how.
    :param signals: Returns, sample counts and presence of the agents, ``[A]``.
    :param minibatches: Served in place of the rollout buffer's.
    :param sample_losses: Loss per sample, for rules that need losses.
    :param max_grad_norm: What the gradient of a step is clipped to.

    ``num_evaluated`` counts minibatches, ``num_steps`` optimiser steps (PPO's ``target_kl`` may end an update before one),
    ``skipped_steps`` those without a usable gradient, and ``num_masked`` the agents masked in the step that masked most.
    """

    def __init__(
        self,
        exchange: Exchange,
        signals: Signals,
        minibatches: Minibatches,
        sample_losses: SampleLosses,
        max_grad_norm: float,
    ) -> None:
        self.exchange = exchange
        self.minibatches = minibatches
        self.num_evaluated = 0
        self.num_steps = 0
        self.skipped_steps = 0
        self.num_masked = len(minibatches.present) - minibatches.num_present
        self.num_parameters = 0
        """P, those that are trained."""
        self._present = ~signals.masked()
        needs = exchange.scheme.needs
        self._signals = Signals(present=self._present, **{name: getattr(signals, name) for name in needs})
        self._needs_losses = "losses" in needs
        self._is_complete = self._signals.complete()  # but for losses
        self._sample_losses = sample_losses
        self._max_grad_norm = max_grad_norm
        self.known_losses: Callable[[], Tensor] | None = None
        """The losses of the current minibatch's samples ``[B]``, where they need not be computed again."""
        self._weights: list[Tensor] = []
        self._counted: list[Tensor] = []
        self._losses: list[Tensor] = []
        self._masked: Tensor | None = None  # in this step
        self._skip = False
        self._answers = True  # the learner, after this step

    # Records --------------------------------------------------------------------------------------------------------------

    def weights(self) -> Tensor:
        """Weights used ``[steps, A]``; no steps where there are no weights."""
        return torch.stack(self._weights) if self._weights else torch.empty(0)

    def present_of_weights(self) -> Tensor:
        """Whose weights count ``[steps, A]``, bool."""
        return torch.stack(self._counted)

    def num_mixed_sign(self) -> int:
        """Steps in which the losses had mixed signs."""
        losses = self._losses[: self.num_steps]
        return int(has_mixed_signs(torch.stack(losses)).sum()) if losses else 0

    def finish(self) -> None:  # noqa: B027 - most have finished with their last step
        """Called when the algorithm's own ``train()`` is over."""

    # Hooks ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def hooked(self, policy: Any) -> Iterator[None]:
        """Change every gradient step taken inside.

        :param policy: SB3's actor-critic policy.
        """
        evaluate_actions, optimizer, step = policy.evaluate_actions, policy.optimizer, policy.optimizer.step
        parameters = list(policy.parameters())  # SB3 walks the module tree for them at every step
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        self.num_parameters = sum(parameter.numel() for parameter in trained)

        def evaluate(*args: Any, **kwargs: Any) -> Outputs:
            if not torch.is_grad_enabled():
                return self.look(evaluate_actions, *args, **kwargs)
            self.minibatches.check_rows(*args, **kwargs)
            self.begin()
            return self.evaluate(evaluate_actions, *args, **kwargs)

        def own_step(*args: Any, **kwargs: Any) -> Any:
            self._before_step(optimizer)
            with self.at_learner(trained):
                return step(*args, **kwargs)

        with ExitStack() as stack:
            stack.enter_context(self.minibatches.served())
            stack.enter_context(_unvalidated_distributions)
            # Not by torch's hooks: an optimiser of one's own may be any object
            stack.enter_context(temporarily(optimizer, step=own_step))
            stack.enter_context(
                temporarily(policy, evaluate_actions=evaluate, parameters=lambda recurse=True: iter(parameters))
            )
            yield

    def begin(self) -> None:
        """A minibatch begins."""
        self.num_evaluated += 1
        self._skip, self._answers, self._masked = False, True, None

    @abstractmethod
    def evaluate(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Replace the policy's ``evaluate_actions``.

        :param evaluate_actions: The policy's own.
        :return: Values ``[B, 1]``, log-probabilities ``[B]``, entropies ``[B]`` if there are any, and whatever else a policy
            returns for each sample.
        """

    def look(self, evaluate_actions: Callable[..., Outputs], *args: Any, **kwargs: Any) -> Outputs:
        """Evaluate any samples without a gradient."""
        return evaluate_actions(*args, **kwargs)

    @abstractmethod
    def prepare_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Called before the optimiser steps, to change the gradients it will find.

        :param optimizer: The policy's.
        """

    def at_learner(self, tensors: Sequence[Tensor]) -> AbstractContextManager[None]:
        """Let the policy's parameters be the learner's for its step, after which it broadcasts them.

        :param tensors: The parameters, P numbers in all.
        """
        return self.exchange.learning(tensors) if self._answers else nullcontext()

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.num_steps += 1
        self.prepare_step(optimizer)
        if self._skip:  # no agent has a usable gradient
            drop_gradients(optimizer)
            self.skipped_steps += 1

    # Without a graph ------------------------------------------------------------------------------------------------------

    def evaluation(self, form: Any) -> Any:
        """What evaluates a minibatch.

        :param form: A :class:`~sb3_agg.closed_form.training.ClosedForm`.
        """
        return form.evaluation

    def step(self, form: Any, outputs: Any, gradients: Any) -> None:
        """Take an optimiser's step, if one is due and an agent has a usable gradient.

        :param form: A :class:`~sb3_agg.closed_form.training.ClosedForm`, which has evaluated the minibatch.
        :param outputs: Of the policy.
        :param gradients: Of SB3's loss with respect to them.
        """
        self.num_steps += 1
        if self._needs_losses:
            self._add_losses(*outputs)
        self._step(form, gradients)
        self.skipped_steps += self._skip

    @abstractmethod
    def _step(self, form: Any, gradients: Any) -> None:
        """Step, unless that turns out to be impossible, which ``_skip`` then says."""

    # Signals --------------------------------------------------------------------------------------------------------------

    def _add_losses(self, *outputs: Tensor | None) -> None:
        """Add the agents' losses in this minibatch to their signals."""
        means, finite = self._agent_losses(*outputs)
        self._signals = self._signals.with_losses(means, complete=finite and self._is_complete)

    @torch.no_grad()
    def _agent_losses(self, *outputs: Tensor | None) -> tuple[Tensor, bool]:
        """Mean loss per agent ``[A]``, NaN without samples and infinite where a sample's is not finite; whether all are."""
        if self.known_losses is None:
            means = self.minibatches.mean_per_agent(self._sample_losses(self.minibatches.samples, *outputs[:3]))
        elif self.minibatches.equal_parts and self.minibatches.num_present == len(self._present):
            means = self.known_losses().view(len(self._present), -1).mean(1)
        else:
            means = self.minibatches.mean_per_agent(self.known_losses())
        finite = bool(means.isfinite().all())
        if not finite:
            means = torch.where((self.minibatches.samples_per_agent() > 0) & ~means.isfinite(), torch.inf, means)
            self._mask(means.isinf())
        self._losses.append(means)
        return means, finite

    def _note_weights(self, weights: Tensor, present: Tensor | None = None) -> None:
        """Record the weights of a step, and whose count, each ``[A]``; ``None``: of all that are not masked."""
        self._weights.append(weights)
        own = self._present if self._masked is None else ~self._masked
        self._counted.append(own if present is None else present)

    def _mask(self, agents: Tensor) -> None:
        """Leave agents ``[A]``, bool, out of this step."""
        self._masked = agents | ~self._present
        self.num_masked = max(self.num_masked, int(self._masked.sum()))
        self._skip = bool(self._masked.all())


class DetachedUpdate(Update):
    """An update whose loss has no graph to the parameters.

    SB3 gets copies of the policy's outputs, on which its backward pass ends. The gradient of its loss with respect to the
    outputs, which it leaves there, is carried on from here, agent by agent.
    """

    def __init__(self, *args: Any, policy: Any) -> None:
        super().__init__(*args)
        self._policy = policy
        self._outputs: list[Tensor] = []
        self._copies: list[Tensor] = []

    def _before_step(self, optimizer: torch.optim.Optimizer) -> None:
        found = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
        if any(gradient is not None and bool(gradient.any()) for gradient in found):
            raise ValueError(
                "the loss has a part that reaches parameters other than through policy.evaluate_actions(), which would not "
                "act where each agent's gradient is taken by itself; leave it out, or choose a rule that weighs losses"
            )
        super()._before_step(optimizer)
        self._outputs, self._copies = [], []

    def _detach(self, outputs: Sequence[Tensor | None]) -> Outputs:
        if any(copy.grad is not None for copy in self._copies):
            raise ValueError(
                "two evaluations were differentiated before one step of the optimiser, and only the last would count: each "
                "agent's gradient is taken of one minibatch; accumulate by interval= instead"
            )
        copies = [None if output is None else output.detach().requires_grad_() for output in outputs]
        pairs = [
            (output, copy)
            for output, copy in zip(outputs, copies, strict=True)
            if output is not None and copy is not None and output.requires_grad
        ]
        self._outputs, self._copies = [output for output, _ in pairs], [copy for _, copy in pairs]
        return tuple(copies)

    def _of_agents_means(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Gradients of each agent's mean loss, from those of the mean of all."""
        return [None if gradient is None else gradient * self.minibatches.num_present for gradient in gradients]

    def _output_gradients(self) -> tuple[list[Tensor], list[Tensor]]:
        """Outputs of the policy that have a gradient, and these: of each agent's mean loss, not of the mean of all."""
        found = self._of_agents_means([copy.grad for copy in self._copies])
        pairs = [(output, gradient) for output, gradient in zip(self._outputs, found, strict=True) if gradient is not None]
        return [output for output, _ in pairs], [gradient for _, gradient in pairs]

    def _clipping(self, norms: Tensor) -> Tensor:
        """Factors that clip gradients of these norms to ``max_grad_norm``, as torch's ``clip_grad_norm_``."""
        return (self._max_grad_norm / (norms + 1e-6)).clamp(max=1.0)


def drop_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Let its next step change nothing: an optimiser leaves parameters without gradient unchanged."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None


class _UnvalidatedDistributions:
    """Skips torch's check of every distribution's arguments: a tenth of an update, and masking replaces it here.

    It is off for all threads while a model is updated in any of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._before = True

    def __enter__(self) -> None:
        with self._lock:
            if not self._num_inside:
                self._before = Distribution._validate_args
                Distribution.set_default_validate_args(False)
            self._num_inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                Distribution.set_default_validate_args(self._before)


_unvalidated_distributions = _UnvalidatedDistributions()
