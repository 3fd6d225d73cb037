r"""Hooks around the ``train()`` of SB3's off-policy algorithms. Axes: A agents, B samples of a minibatch, P parameters.

Each network's loss is a mean over the minibatch, and each sample's loss reaches the network's parameters only through its own
rows of what the network returns. So a gradient step is changed there and just before the optimiser's step, not in ``train()``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.save_util import recursive_getattr
from torch import Tensor

from rl_agg import Exchange, Signals
from rl_agg.rules import has_mixed_signs
from sb3_agg.hooks.base import drop_gradients
from sb3_agg.off_policy.algorithms import Algorithm, Part
from sb3_agg.off_policy.losses import noted
from sb3_agg.off_policy.minibatches import Batch, ReplayMinibatches
from sb3_agg.patching import temporarily


class Update(ABC):
    """The hooks of all calls of ``train()``, and what they record of one.

    :param model: The algorithm, whose networks and optimisers are looked up in each call.
    :param algorithm: What is known of it.
    :param exchanges: What agents exchange with the learner, by the optimiser that steps with it.

    ``num_steps`` counts the optimiser steps of a call. Since :meth:`forget`, ``skipped_steps`` counts those without a usable
    gradient, ``num_mixed_sign`` how often losses had mixed signs, and ``num_masked`` the agents masked in the step that masked
    most.
    """

    def __init__(self, model: Any, algorithm: Algorithm, exchanges: Mapping[str, Exchange]) -> None:
        self.model = model
        self.algorithm = algorithm
        self.exchanges = exchanges
        self.rule: Exchange = next(iter(exchanges.values()))  # they have one scheme, and weights have no memory
        self.needs = self.rule.scheme.needs
        self.num_steps = 0
        self.forget()
        self._returns_known: NDArray[np.float64] | None = None
        self._known_present: NDArray[np.bool_] = np.empty(0, dtype=np.bool_)
        self._returns = torch.empty(0)
        self._present = torch.empty(0, dtype=torch.bool)
        self._lasting: Signals
        """What does not change from minibatch to minibatch."""
        self._evaluated: dict[Part, Batch] = {}
        self.weights: list[tuple[Tensor, Tensor]] = []
        """Weights that were used, and whose count, each ``[A]``; none where there are no weights."""

    def forget(self) -> None:
        """Begin to count anew."""
        self.skipped_steps = self.num_mixed_sign = self.num_masked = 0

    def begin(self, minibatches: ReplayMinibatches, returns: NDArray[np.float64]) -> None:
        """A call of ``train()`` begins.

        :param minibatches: Served in place of the replay buffer's.
        :param returns: Each agent's ``[A]``, NaN where it has none yet; infinite: it is masked. A new array if they changed.
        """
        self.minibatches = minibatches
        self.num_steps = 0
        self.weights = []
        self._evaluated.clear()
        if self._returns_known is returns:
            return
        self._returns_known = returns
        present = ~np.isinf(returns)
        if "returns" in self.needs or not np.array_equal(present, self._known_present):
            self._known_present = present
            self._returns = torch.as_tensor(returns, device=self.model.device)
            self._present = torch.as_tensor(present, device=self.model.device)
            self.all_present = bool(present.all())
            self._note_returns()

    def _note_returns(self) -> None:
        """Called where a return that is read, or who is present, has changed since the last call."""
        self._lasting = Signals(present=self._present, returns=self._returns if "returns" in self.needs else None)
        self._is_complete = self._lasting.complete()

    # Hooks ----------------------------------------------------------------------------------------------------------------

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """Change every gradient step taken inside."""
        with ExitStack() as stack:
            stack.enter_context(self.minibatches.served())
            if "losses" in self.needs:
                stack.enter_context(noted(*self.algorithm.loss, self._note_losses))
            for part in self.algorithm.parts:
                network, optimizer = getattr(self.model, part.network), recursive_getattr(self.model, part.optimizer)
                evaluate = partial(self._evaluate, part, getattr(network, part.method))
                stack.enter_context(temporarily(network, **{part.method: evaluate}))
                # Not by torch's hooks: an optimiser of one's own may be any object
                stack.enter_context(temporarily(optimizer, step=partial(self._step, part, optimizer, optimizer.step)))
            yield

    def _evaluate(self, part: Part, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        given = (*args, *kwargs.values())
        if not torch.is_grad_enabled() or any(isinstance(item, Tensor) and item.requires_grad for item in given):
            return method(*args, **kwargs)  # for targets, or a critic that an actor is trained by
        batch = self.minibatches.batch
        if batch is None:
            raise ValueError(f"{self._train} evaluates {part.network} before it samples from the replay buffer")
        outputs = self.evaluate(part, batch, method, *args, **kwargs)
        rows = len(outputs[0] if isinstance(outputs, tuple) else outputs)
        if rows != len(batch.agents):
            raise ValueError(
                f"{self._train} evaluates {part.network} on {rows} rows, but sampled {len(batch.agents)}: whose they are is "
                "unknown"
            )
        self._evaluated[part] = batch
        return outputs

    @property
    def _train(self) -> str:
        return f"{type(self.model).__name__}.train()"

    def _step(self, part: Part, optimizer: torch.optim.Optimizer, step: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        batch = self._evaluated.pop(part, None)
        if batch is None:
            raise ValueError(
                f"{self._train} steps {part.optimizer} without a call of {part.network}.{part.method}() on the sampled "
                "minibatch before, so its gradient would not be aggregated"
            )
        self.num_steps += 1
        if not self.prepare_step(part, batch, optimizer):
            drop_gradients(optimizer)
            self.skipped_steps += 1
        return step(*args, **kwargs)

    @abstractmethod
    def evaluate(self, part: Part, batch: Batch, method: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Evaluate a network on a minibatch's samples.

        :param method: The network's own.
        :param args: Its arguments.
        :return: Its outputs, a tensor ``[B, ...]`` or a tuple of them.
        """

    @abstractmethod
    def prepare_step(self, part: Part, batch: Batch, optimizer: torch.optim.Optimizer) -> bool:
        """Called before an optimiser steps, to change the gradients it will find.

        :return: Whether an agent has a usable gradient.
        """

    def settle(self) -> None:  # noqa: B027 - most are charged with each step
        """Charge the exchanges for what has not been charged yet."""

    def trained(self, part: Part) -> list[Tensor]:
        """The parameters of a part's optimiser, P numbers in all, that are not frozen."""
        groups = recursive_getattr(self.model, part.optimizer).param_groups
        return [parameter for group in groups for parameter in group["params"] if parameter.requires_grad]

    # Signals --------------------------------------------------------------------------------------------------------------

    def _note_losses(self, losses: Tensor) -> None:
        """Add one critic's losses of the current minibatch's samples ``[B]``."""
        batch = self.minibatches.batch
        if batch is not None and len(losses) == len(batch.agents):
            losses = losses * self.algorithm.loss_factor
            batch.losses = losses if batch.losses is None else batch.losses + losses

    def signals(self, batch: Batch, masked: Tensor | None = None) -> Signals:
        """What agents report with a minibatch, each ``[A]``.

        :param masked: Agents to leave out ``[A]``, bool, those of the minibatch included; ``None``: those alone.
        """
        signals, complete = self._lasting, self._is_complete
        left_out = (batch.masked if masked is None else masked, self._without_samples(batch))
        absent = [agents for agents in left_out if agents is not None]
        if absent or "num_samples" in self.needs:
            present = self._present & ~torch.stack(absent).any(0) if absent else self._present
            counts = batch.counts.double() if "num_samples" in self.needs else None
            signals, complete = replace(signals, present=present, num_samples=counts), False
        if "losses" not in self.needs:
            return signals
        losses, finite = self._agent_losses(batch)
        return signals.with_losses(losses, complete=complete and finite)

    def _agent_losses(self, batch: Batch) -> tuple[Tensor, bool]:
        """Each agent's mean loss ``[A]``, NaN without samples and infinite where a sample's is not finite; whether all are."""
        if batch.losses is None:
            module, name = self.algorithm.loss
            raise ValueError(
                f"the rule reads losses, but {self._train} does not compute its critics' by {module.__name__}.{name}(); call "
                "that function, or choose a rule that does not"
            )
        means = batch.mean_per_agent(batch.losses.double())
        finite = math.isfinite(means.sum())
        if not finite:
            means = torch.where((batch.counts > 0) & ~means.isfinite(), torch.inf, means)
        if not finite or float(means.min()) <= 0:  # seldom, and cheaper than the next test
            self.num_mixed_sign += int(has_mixed_signs(means[None]).sum())
        return means, finite

    def _weigh(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Weights of the agents for a minibatch, and whose count, each ``[A]``."""
        if batch.weights is None:
            signals = self.signals(batch)
            batch.weights = self.rule.weigh(signals), self._present if signals.complete() else ~signals.masked()
        return batch.weights

    def _without_samples(self, batch: Batch) -> Tensor | None:
        """Agents of whom nothing could be drawn ``[A]``, bool, if any; in SB3's own order it is chance, and they count."""
        if not self.minibatches.stratified or batch.equal_parts:
            return None
        idle = batch.counts == 0
        return idle if bool(idle.any()) else None

    def _scales(self, batch: Batch) -> Tensor:
        r"""What makes the gradient of the mean over B that of each agent's mean ``[A]``.

        :math:`B / n_a`. In SB3's own order, where :math:`n_a` is chance, its expectation :math:`A`, so that ``mean`` is SB3's;
        unless the rule goes by :math:`n_a` itself.
        """
        if batch.equal_parts or not (self.minibatches.stratified or "num_samples" in self.needs):
            return torch.full_like(batch.counts, len(batch.counts), dtype=torch.float64)
        return len(batch.agents) / batch.counts.clamp(min=1).double()

    def _note_masked(self, batch: Batch, masked: Tensor) -> None:
        """Count agents ``[A]``, bool, that do not count in a step; those of whom nothing could be drawn yet are not masked."""
        idle = self._without_samples(batch)
        if idle is not None:
            masked = masked & ~(idle & self._present)
        self.num_masked = max(self.num_masked, int(masked.sum()))
