r"""What becomes of one module's samples on one learner. Axes: A agents, B samples, P parameters, L learners.

A rule's gradient is that of one weighted loss, so that one backward pass does:

.. math::
    g = \sum_a w_a \nabla L_a = \nabla \sum_t c_t\, l_t, \qquad c_t = w_{a_t} m_t / n_{a_t}, \quad n_a = \sum_{t: a_t = a} m_t

with w the rule's weights, from returns, losses and n, and :math:`m_t` 1 where a sample is valid. With L >= 2 the sums run over
all learners, and as ``DistributedDataParallel`` averages gradients, each learner's own loss is multiplied by L.

Where a replay draws the samples, the stock loss is a mean over all of them, in which agents have unequal parts by chance.
There :math:`c_t = A' w_{a_t} m_t / n` with the :math:`A'` agents and n samples of the batch: ``mean`` is the stock loss.

Where messages have to be seen one by one, each agent's own gradient goes through the exchange; of a module whose parameters
are in groups, such as actor and critics, each group's by itself. Where parameters are exchanged, this learner is a client that
steps with the mean over its own samples.

Source: Holen et al. (2023), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn

from rl_agg import Combiner, Signals
from rl_agg.diagnostics import weight_summary
from rl_agg.optimizers import step_scale
from rl_agg.per_agent_gradients import trained_parameters, unflatten
from rllib_agg.aggregation.agents import AGENT, RETURN
from rllib_agg.aggregation.explained_variance import explained_variance
from rllib_agg.aggregation.local_client import LocalClient
from rllib_agg.aggregation.masking import exclude_rows, loss_mask
from rllib_agg.aggregation.sums_by_agent import sum_by_agent, sum_gradients_by_agent
from rllib_agg.aggregation.update_stats import UpdateStats


class ModuleAggregator:
    """One module's exchange on one of L learners, and what it knows of the agents; the module is not wrapped in DDP.

    :param groups: Which trained parameters' numbers are exchanged together ``[P]`` each, bool; none: all of them.
    """

    def __init__(
        self,
        config: Any,
        module: nn.Module,
        optimizers: Sequence[torch.optim.Optimizer],
        *,
        num_learners: int,
        groups: Sequence[Tensor] = (),
    ) -> None:
        self.num_agents: int = config.num_agents
        self.exchange = config.make_exchange()
        self.client = LocalClient(self.exchange, module) if self.exchange.scheme.payload.content == "parameters" else None
        self.num_sharing = num_learners if self.client is None else 1
        """Learners whose samples make one gradient."""
        self.returns: Tensor | None = None
        """Each agent's last known return ``[A]``: NaN where none is known, infinite where that of this update is not finite;
        ``None`` before the first update."""
        self._known: Tensor | None = None  # the last that was finite [A]
        self.stats = UpdateStats(torch.zeros(self.num_agents, dtype=torch.bool))
        """Of the current update."""
        self.num_samples = 0.0
        """That count in the current update, of all learners."""
        sends_gradients = self.exchange.scheme.payload.content == "gradients"
        self.is_separate = sends_gradients and not self.exchange.weights_only
        """Whether each agent's gradient is taken by itself."""
        others = [config.make_exchange(ledger=self.exchange.ledger) for _ in groups[1:]]
        everything: list[Any] = [slice(None)]
        self._groups = list(zip([self.exchange, *others], groups or everything, strict=True))
        self._module = module
        self._optimizers = optimizers
        self._num_learners = num_learners
        self._by_share = config.replays and not isinstance(self.exchange.scheme.rule, Combiner)
        self._samples: tuple[Tensor, Tensor, Tensor] | None = None  # losses, agents and valid of the current minibatch, [B]
        self._logged: Tensor | None = None  # the loss of the current minibatch where gradients are separate, for the log alone
        self._own_agents: Tensor | None = None  # that have samples here in this update [A]

    @property
    def averages_gradients(self) -> bool:
        """Whether one backward pass, averaged over learners, yields the gradient."""
        return self.client is None and not self.is_separate

    @property
    def mixes_minibatches(self) -> bool:
        """Whether minibatches are drawn at random from the first epoch on: where agents count by more than their samples."""
        rule = self.exchange.scheme.rule
        return self.client is None and (isinstance(rule, Combiner) or rule.rule != "samples")

    # Before the first minibatch -------------------------------------------------------------------------------------------

    def begin_update(self, data: dict[str, Any]) -> bool:
        """Note returns, excluded agents and what a rule reads of the whole rollout, over all learners.

        :param data: The module's columns; samples of agents that another learner excludes are excluded here too, in place.
        :return: Whether an agent is excluded.
        """
        agents, valid = data[AGENT].reshape(-1), loss_mask(data).reshape(-1)
        # APPO replays batches whose returns were noted before, each learner another one. It must take part in the sums below
        # all the same: the other learners wait for it.
        returns = data.pop(RETURN, valid.new_full(valid.shape, torch.nan, dtype=torch.float32)).reshape(-1)
        ended = valid & ~returns.isnan()
        columns = torch.stack([valid.double(), (~valid).double(), returns.where(ended, 0.0).double(), ended.double()])
        sums = sum_by_agent(columns, agents, self.num_agents, num_learners=1)
        # An agent is excluded here if it has samples and none of them is valid; anywhere, if it is excluded anywhere.
        shared = torch.stack([(sums[0] == 0) & (sums[1] > 0), sums[2], sums[3], sums[0]])
        if self._num_learners > 1:
            distributed.all_reduce(shared)
        excluded = shared[0] > 0
        if bool(excluded.any()):
            exclude_rows(data, excluded[data[AGENT]])
        mean = (shared[1] / shared[2]).nan_to_num(nan=torch.inf, posinf=torch.inf, neginf=torch.inf)
        known = self._known_returns(mean)
        self.returns = known.where(shared[2] == 0, mean)
        self._known = known.where(self.returns.isinf(), self.returns)
        self.stats = UpdateStats(excluded)
        self.num_samples = float(shared[3][~excluded].sum())
        if self.client is None:
            self._note_rollout(data, agents)
        else:
            self._own_agents = (sums[0] > 0) & ~excluded
            self.client.begin_update(float(sums[0][~excluded].sum()))
        return bool(excluded.any())

    def _note_rollout(self, data: dict[str, Any], agents: Tensor) -> None:
        assert self.returns is not None
        reported = {}
        if "explained_variance" in self.exchange.scheme.reported:
            valid = loss_mask(data).reshape(-1)
            reported["explained_variance"] = explained_variance(
                data, agents, valid, self.num_agents, num_learners=self._num_learners
            )
        signals = Signals(**reported, present=~self.stats.excluded & ~self.returns.isinf())
        for exchange, _ in self._groups:
            exchange.begin_update(signals)

    def _known_returns(self, like: Tensor) -> Tensor:
        """Those before this update; a restored run may have had fewer agents, or more."""
        unknown = torch.full_like(like, torch.nan)
        return unknown if self._known is None else torch.cat([self._known.to(unknown), unknown])[: self.num_agents]

    # In each minibatch ----------------------------------------------------------------------------------------------------

    def reduce(self, losses: Tensor, agents: Tensor, valid: Tensor, reported: Tensor) -> Tensor:
        """Weigh the agents' losses, or keep them to be differentiated agent by agent.

        :param losses: Of each sample ``[B]``, differentiable.
        :param agents: Whose sample it is, ``[B]``.
        :param valid: Samples that count ``[B]``, bool.
        :param reported: The losses by which agents are weighed ``[B]``.
        :return: What RLlib differentiates, or logs.
        """
        factors = self.weigh(reported, agents, valid)
        if factors is None:
            self._samples = losses, agents, valid
            self._logged = self.mean_loss.to(losses.dtype)
            return self._logged
        loss: Tensor = (factors[agents] * losses).where(valid, 0.0).sum()  # where, not a product: 0 * NaN is NaN
        term = None if self.client is None else self.client.proximal_term()
        return loss if term is None else loss + term

    @property
    def mean_loss(self) -> Tensor:
        """The mean of the agents' losses in the last minibatch."""
        last = self.stats.last
        mean: Tensor = last.losses.sum() / (last.num_samples > 0).sum().clamp(min=1)
        return mean

    def weigh(self, losses: Tensor, agents: Tensor, valid: Tensor) -> Tensor | None:
        """Note the agents' losses, and weigh them.

        :param losses: Of each sample ``[B]``.
        :param agents: Whose sample it is, ``[B]``.
        :param valid: Samples that count ``[B]``, bool.
        :return: What an agent's losses are multiplied by, so that the sum of all has the gradient ``[A]``; ``None`` where each
            agent's gradient is taken by itself.
        """
        counted = losses.where(valid, 0.0)
        columns = torch.stack([counted, valid.to(counted.dtype)])
        total, n = sum_by_agent(columns, agents, self.num_agents, num_learners=self.num_sharing)
        mean = total / n.clamp(min=1.0)
        assert self.returns is not None
        present = (n > 0) & ~self.returns.isinf() & ~mean.isinf()
        if self.is_separate:
            self.stats.add(mean, n, present=present)
            return None
        weights = self._weigh(mean, n, present) if self.client is None else n / n.sum().clamp(min=1.0)
        self.stats.add(mean, n, present=present, weights=weights)
        factors: Tensor = (weights / self._divisors(n, present) * max(1, self.num_sharing)).to(losses.dtype)
        return factors

    def _divisors(self, num_samples: Tensor, present: Tensor) -> Tensor:
        """What the sum of each agent's losses is divided by ``[A]``."""
        shared = num_samples[present].sum() / present.sum().clamp(min=1) if self._by_share else num_samples
        return shared.clamp(min=1.0)

    def _weigh(self, losses: Tensor, num_samples: Tensor, present: Tensor) -> Tensor:
        needs = self.exchange.scheme.needs
        if needs <= {"returns", "explained_variance"}:  # which do not change within an update
            before = self.stats.weights_of(present)
            if before is not None:
                return before
        reported = {"returns": self.returns, "losses": losses, "num_samples": num_samples}
        given = {name: reported[name] for name in needs & reported.keys()}  # the exchange knows the others
        weights: Tensor = self.exchange.weigh(Signals(**given, present=present))
        return weights

    def differentiate(self, loss: Tensor) -> Tensor | None:
        """Gradients of the agents' mean losses, over all learners.

        :param loss: What :meth:`reduce` returned.
        :return: ``[A, P]``; ``None`` if nothing in the module is trained.
        :raises ValueError: if the loss is another: what was changed about it would not act.
        """
        assert self._samples is not None
        if loss is not self._logged:
            raise ValueError(
                "each agent's gradient is taken from losses_per_sample(), so that another loss given to compute_gradients() "
                "would not act; put its terms into losses_per_sample()"
            )
        samples, self._samples = self._samples, None
        if not samples[0].requires_grad:
            return None
        last = self.stats.last
        sums = sum_gradients_by_agent(*samples, self._module, self.num_agents, num_learners=self._num_learners)
        return sums / self._divisors(last.num_samples, last.present).to(sums.dtype).expand(self.num_agents)[:, None]

    def merge(self, gradients: Tensor) -> list[tuple[nn.Parameter, Tensor]] | None:
        """Exchange the agents' gradients.

        A rule weighs the agents that have samples in the minibatch. A combiner has to know who has none by chance, because it
        counts masked agents among the faulty ones that it tolerates.

        :param gradients: ``[A, P]``.
        :return: Parameters and their gradients, the same on all learners to the bit; ``None`` until the schedule asks for an
            exchange.
        """
        n = self.stats.last.num_samples
        present, idle = n > 0, None
        if isinstance(self.exchange.scheme.rule, Combiner):
            present = present | ~self.stats.excluded
            idle = (n == 0) & present
        signals = Signals(returns=self.returns, losses=self.stats.last.losses, num_samples=n, present=present)
        parameters = trained_parameters(self._module)
        scale = joint_step_scale(self._optimizers, parameters) if self.exchange.scales else None
        gradient = gradients.new_empty(gradients.shape[1])  # RLlib clips it in place, and a gate may remember what was merged
        found = []
        for exchange, columns in self._groups:
            own = None if scale is None else scale[columns]
            merged = exchange.step(gradients[:, columns], signals, idle=idle, scale=own)
            if merged is not None:  # or it is for all
                gradient[columns] = merged.vector.to(gradient)
                found.append(merged)
        if not found:
            return None
        self.stats.add_merged(found)
        return list(zip(parameters, unflatten(gradient, parameters), strict=True))

    @property
    def is_unfit(self) -> bool:
        """Whether no agent counts in the last minibatch."""
        last = self.stats.last
        return not bool((last.present if last.weights is None else last.weights).any())

    # After the last minibatch ---------------------------------------------------------------------------------------------

    def learning(self) -> AbstractContextManager[None]:
        """Let the module hold the learner's parameters for its step, and then what agents decode of its broadcast."""
        learning: AbstractContextManager[None] = self.exchange.learning(trained_parameters(self._module))
        return learning

    def end_update(self) -> dict[str, float]:
        """Close the update: charge the ledger and, where parameters are exchanged, merge them if that is due.

        :return: What is logged of the weights, and of what a budget of bytes moves.
        """
        if self._samples is not None:
            raise ValueError(
                "compute_gradients() did not call AggLearnerMixin.compute_gradients(), so that the agents' gradients would "
                "not act; call super().compute_gradients()"
            )
        summary = self._charge_or_merge()
        self.exchange.end_update()
        return {**summary, **self.exchange.followed}

    def _charge_or_merge(self) -> dict[str, float]:
        if self.client is not None:
            return self._merge_parameters(self.client)
        if self.exchange.weights_only:
            total = sum(parameter.numel() for parameter in trained_parameters(self._module))
            answers = np.full(self.num_agents, self.stats.num_minibatches)  # every agent acts by the answer, masked ones too
            for exchange, columns in self._groups:
                size = total if isinstance(columns, slice) else int(columns.sum())
                exchange.charge(self.stats.num_present(), answers, up={"gradients": size}, down={"parameters": size})
        return self.stats.weight_summary()

    def _merge_parameters(self, client: LocalClient) -> dict[str, float]:
        masked = self.stats.masked().double()
        distributed.all_reduce(masked)
        self.stats.excluded = masked > 0
        assert self.returns is not None
        assert self._own_agents is not None
        own = self.returns[self._own_agents & self.returns.isfinite()]
        merged = client.end_update(*self.stats.loss_and_samples(), float(own.mean()), self._optimizers)
        divergence = {"divergence": client.divergence}
        if merged is None or merged.weights is None:
            return divergence
        return {**weight_summary(merged.weights[None], merged.present[None]), **divergence}

    @property
    def mean_return(self) -> float:
        """Of the agents' last known returns; NaN if none is known."""
        return math.nan if self.returns is None else float(self.returns[self.returns.isfinite()].mean())

    @property
    def masked(self) -> Tensor:
        """Agents left out of this update ``[A]``, bool."""
        assert self.returns is not None
        return self.stats.masked() | self.returns.isinf()

    @property
    def counts(self) -> dict[str, int]:
        """How often something happened in this update, by the names that it is logged by."""
        return {"mixed_sign_updates": self.stats.num_mixed_sign() if "losses" in self.exchange.scheme.needs else 0}

    # Checkpoints ----------------------------------------------------------------------------------------------------------

    def get_state(self) -> dict[str, Any]:
        """What all learners know alike."""
        returns = None if self._known is None else self._known.tolist()
        others = [exchange.state_dict() for exchange, _ in self._groups[1:]]
        return {"returns": returns, "exchange": self.exchange.state_dict(), "others": others}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore :meth:`get_state`; what belongs to other settings starts afresh."""
        known = state["returns"]
        self.returns = self._known = None if known is None else torch.tensor(known, dtype=torch.float64)
        for (exchange, _), saved in zip(self._groups, [state["exchange"], *state["others"]], strict=True):
            exchange.load_state_dict(saved)


def joint_step_scale(optimizers: Iterable[torch.optim.Optimizer], parameters: Sequence[Tensor]) -> Tensor | None:
    """What optimisers, each of its own parameters, multiply the gradient by ``[P]``; ``None``: all alike."""
    owners = {item: own for own in optimizers for group in own.param_groups for item in group["params"]}
    if not owners.keys() >= set(parameters):
        return None
    if len({owners[item] for item in parameters}) == 1:
        return step_scale(owners[parameters[0]], parameters)
    scales = [step_scale(owners[item], [item]) for item in parameters]
    known = [scale for scale in scales if scale is not None]
    return torch.cat(known) if len(known) == len(scales) else None
