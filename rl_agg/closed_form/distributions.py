r"""Distributions over actions and their derivatives. Axes: B samples, D dimensions of an action, N choices in one.

What a network returns has the shape ``[..., n]``, where the leading axes are those of the samples; log-probabilities and
entropies have the leading axes alone.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rl_agg.closed_form.factors import Factors
from rl_agg.closed_form.memory import Memory

MASKED = -1e8
"""The logit of an action that is masked, as in sb3-contrib."""


class Distribution(ABC):
    """What a policy's last layer parametrises."""

    @abstractmethod
    def evaluate(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities ``[...]`` and entropies ``[...]``.

        :param outputs: What the network returns ``[..., n]``.
        :param actions: As the host keeps them, ``[..., D]``.
        """

    @abstractmethod
    def differentiate(
        self, log_prob_gradient: Tensor, entropy_gradient: Tensor | None, divergence_gradient: Tensor | None = None
    ) -> Tensor:
        """The loss's gradient with respect to the outputs of the last :meth:`evaluate` ``[..., n]``.

        :param log_prob_gradient: With respect to the log-probabilities ``[...]``.
        :param entropy_gradient: With respect to the entropies ``[...]``; ``None``: zero.
        :param divergence_gradient: With respect to what :meth:`divergence` returned since; ``None``: zero.
        """

    def divergence(self, before: Tensor) -> Tensor:
        """The Kullback-Leibler divergence from another distribution to that of the last :meth:`evaluate` ``[...]``.

        :param before: What a network returned for the other one ``[..., n]``.
        """
        raise NotImplementedError(f"{type(self).__name__} has no divergence")

    @abstractmethod
    def sample(self, outputs: Tensor, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """Actions ``[..., D]`` and their log-probabilities ``[...]``, drawn from torch's generator as torch's own classes do.

        :param outputs: What the network returns ``[..., n]``.
        :param deterministic: Whether to take the likeliest action.
        """

    def mask(self, masks: Tensor | None) -> None:
        """Rule actions out until the next call.

        :param masks: Those that are allowed ``[..., n]``, bool.
        :raises ValueError: if the distribution cannot be masked.
        """
        if masks is not None:
            raise ValueError(f"{type(self).__name__} cannot be masked")

    def write_gradients(self) -> None:  # noqa: B027 - most have no parameters of their own
        """Write the gradients of the distribution's own parameters, after :meth:`differentiate`."""

    def factors(self, num_agents: int, agents: Tensor | None) -> list[Factors]:
        """Each agent's gradients of the distribution's own parameters, after :meth:`differentiate`.

        :param num_agents: A.
        :param agents: The agent of each sample ``[B]``; ``None``: equally many of each, agent by agent.
        """
        return []


class Categorical(Distribution):
    r"""D independent choices among a number of actions each, by their logits.

    With p the probabilities: :math:`\partial \log p_a / \partial z_i = [i = a] - p_i` and
    :math:`\partial H / \partial z_i = -p_i (\log p_i + H)`; of the divergence from q, :math:`p_i - q_i`.

    :param sizes: N of each of D choices.
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        self._sizes = list(sizes)
        self._widest = max(sizes)
        self._is_even = min(sizes) == self._widest
        starts = list(itertools.accumulate(sizes, initial=0))
        slots = [[start + min(i, size - 1) for i in range(self._widest)] for start, size in zip(starts, sizes, strict=False)]
        self._slots = torch.tensor(slots).flatten()
        self._exists = torch.arange(self._widest) < torch.tensor(self._sizes)[:, None]  # [D, N]
        self._masks: Tensor | None = None

    def mask(self, masks: Tensor | None) -> None:
        """Rule actions out until the next call."""
        self._masks = masks

    def _log_probabilities(self, logits: Tensor) -> Tensor:
        """``[..., D, N]``"""
        self._allowed = self._masks
        if self._is_even:
            logits = torch.unflatten(logits, -1, (-1, self._widest))
            self._allowed = None if self._masks is None else self._masks.view(logits.shape)
        else:
            self._slots, self._exists = self._slots.to(logits.device), self._exists.to(logits.device)
            shape = (len(self._sizes), self._widest)
            logits = torch.unflatten(logits[..., self._slots], -1, shape)
            self._allowed = self._exists
            if self._masks is not None:
                self._allowed = torch.unflatten(self._masks[..., self._slots], -1, shape) & self._exists
        if self._allowed is not None:
            logits = torch.where(self._allowed, logits, MASKED)
        return torch.log_softmax(logits, -1)

    def evaluate(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies."""
        self._log_p = self._log_probabilities(outputs)
        self._p = self._log_p.exp()
        self._chosen = actions.long().unsqueeze(-1)  # [..., D, 1]
        products = self._p * self._log_p
        if self._allowed is not None:
            products = products.masked_fill_(~self._allowed, 0.0)
        self._entropies = products.sum(-1, keepdim=True).neg_()  # [..., D, 1]
        return self._log_p.gather(-1, self._chosen).sum((-2, -1)), self._entropies.sum((-2, -1))

    def divergence(self, before: Tensor) -> Tensor:
        """From another distribution, whose logits these are, to this one."""
        log_before = self._log_probabilities(before)
        self._before = log_before.exp()
        return (self._before * (log_before - self._log_p)).sum((-2, -1))

    def differentiate(
        self, log_prob_gradient: Tensor, entropy_gradient: Tensor | None, divergence_gradient: Tensor | None = None
    ) -> Tensor:
        """The gradient with respect to the logits."""
        of_log_prob = log_prob_gradient[..., None, None]
        if entropy_gradient is None:
            gradient = self._p * -of_log_prob
        else:
            of_entropy = entropy_gradient[..., None, None]
            gradient = (self._log_p + self._entropies).mul_(of_entropy).add_(of_log_prob).mul_(self._p).neg_()
        gradient.scatter_add_(-1, self._chosen, of_log_prob.expand(self._chosen.shape))
        if divergence_gradient is not None:
            gradient += (self._p - self._before) * divergence_gradient[..., None, None]
        if self._allowed is not None:
            gradient = gradient.masked_fill_(~self._allowed, 0.0)
        gradient = gradient.flatten(-2)
        return gradient if self._is_even else gradient[..., self._exists.flatten()]

    def sample(self, outputs: Tensor, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """One choice after the other, as torch's and SB3's classes draw."""
        log_p = self._log_probabilities(outputs)
        if deterministic:
            actions = log_p.argmax(-1)
        else:
            p = log_p.exp().view(-1, *log_p.shape[-2:])  # [B, D, N]
            if len(self._sizes) == 1:
                actions = torch.multinomial(p[:, 0], 1, True)
            else:
                actions = torch.cat([torch.multinomial(p[:, i, :size], 1, True) for i, size in enumerate(self._sizes)], -1)
            actions = actions.view(log_p.shape[:-1])
        return actions, log_p.gather(-1, actions.unsqueeze(-1)).sum((-2, -1))


class Bernoulli(Distribution):
    r"""D independent bits, by their logits z.

    With :math:`p = \sigma(z)`: :math:`\partial \log P(a) / \partial z = a - p` and
    :math:`\partial H / \partial z = -z p (1-p)`.
    """

    def evaluate(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies."""
        self._logits, self._actions, self._p = outputs, actions, torch.sigmoid(outputs)
        entropies = nn.functional.binary_cross_entropy_with_logits(outputs, self._p, reduction="none").sum(-1)
        return self._log_prob(outputs, actions), entropies

    def _log_prob(self, logits: Tensor, actions: Tensor) -> Tensor:
        return -nn.functional.binary_cross_entropy_with_logits(logits, actions.to(logits.dtype), reduction="none").sum(-1)

    def differentiate(
        self, log_prob_gradient: Tensor, entropy_gradient: Tensor | None, divergence_gradient: Tensor | None = None
    ) -> Tensor:
        """The gradient with respect to the logits."""
        gradient = (self._actions - self._p) * log_prob_gradient.unsqueeze(-1)
        if entropy_gradient is not None:
            gradient -= self._logits * self._p * (1 - self._p) * entropy_gradient.unsqueeze(-1)
        return gradient

    def sample(self, outputs: Tensor, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """All bits at once."""
        p = torch.sigmoid(outputs)
        actions = p.round() if deterministic else torch.bernoulli(p)
        return actions, self._log_prob(outputs, actions)


class DiagonalGaussian(Distribution):
    r"""D independent normal variables, whose means :math:`\mu` are a network's outputs and whose deviations are parameters.

    With :math:`e = (a - \mu) / \sigma`: :math:`\partial \log p / \partial \mu = e / \sigma`,
    :math:`\partial \log p / \partial \log \sigma = e^2 - 1` and :math:`\partial H / \partial \log \sigma = 1`.

    :param log_std: :math:`\log \sigma` ``[D]``.
    :param memory: Where it is.
    """

    def __init__(self, log_std: nn.Parameter, memory: Memory) -> None:
        self._columns = memory.columns.get(id(log_std))
        self._log_std = memory.value(log_std).unsqueeze(-2)  # [1, D] or [A, 1, D]
        self._gradient = memory.gradient(log_std)

    def evaluate(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies."""
        self._inverse = torch.exp(-self._log_std)
        self._error = (actions - outputs).mul_(self._inverse)
        log_prob = self._log_prob(self._error)
        entropy = (self._log_std + (0.5 + 0.5 * math.log(2 * math.pi))).sum(-1)
        return log_prob, entropy.expand_as(log_prob)

    def _log_prob(self, error: Tensor) -> Tensor:
        constant = self._log_std.sum(-1) + 0.5 * math.log(2 * math.pi) * error.shape[-1]
        return error.square().sum(-1).mul_(-0.5).sub_(constant)

    def differentiate(
        self, log_prob_gradient: Tensor, entropy_gradient: Tensor | None, divergence_gradient: Tensor | None = None
    ) -> Tensor:
        """The gradient with respect to the means."""
        of_log_prob = log_prob_gradient.unsqueeze(-1)
        if self._gradient is not None:
            self._deltas = self._error.square().sub_(1.0).mul_(of_log_prob)
            if entropy_gradient is not None:
                self._deltas += entropy_gradient.unsqueeze(-1)
        return self._error.mul_(self._inverse).mul_(of_log_prob)

    def write_gradients(self) -> None:
        """Sum the samples' gradients of the log deviations."""
        if self._gradient is not None:
            torch.sum(self._deltas, -2, out=self._gradient)

    def factors(self, num_agents: int, agents: Tensor | None) -> list[Factors]:
        """As the bias of a layer with one sample of each agent."""
        if self._gradient is None:
            return []
        if agents is None:
            sums = torch.unflatten(self._deltas, 0, (num_agents, -1)).sum(1)
        else:
            sums = self._deltas.new_zeros(num_agents, self._deltas.shape[-1]).index_add_(0, agents, self._deltas)
        sums = sums[:, None]
        return [Factors(sums, sums[..., :0], None, self._columns)]

    def sample(self, outputs: Tensor, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """All variables at once."""
        error = torch.zeros_like(outputs)
        if not deterministic:
            error = torch.normal(error, torch.ones_like(outputs))
        return torch.exp(self._log_std) * error + outputs, self._log_prob(error)


class GaussianOfOutputs(Distribution):
    r"""D independent normal variables, whose means and log deviations are a network's outputs.

    With :math:`e = (a - \mu) / \sigma`: derivatives with respect to :math:`\mu` and :math:`\log \sigma` of the log-probability
    are :math:`e / \sigma` and :math:`e^2 - 1`, of the entropy 0 and 1, and of the divergence from
    :math:`N(\mu', \sigma')` :math:`(\mu - \mu') / \sigma^2` and :math:`1 - (\sigma'^2 + (\mu - \mu')^2) / \sigma^2`.

    :param limit: Log deviations are clipped to :math:`\pm` this; ``None``: not at all.
    """

    def __init__(self, limit: float | None) -> None:
        self._limit = math.inf if limit is None else limit

    def evaluate(self, outputs: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities and entropies."""
        self._mean, log_std = outputs.chunk(2, -1)
        self._log_std = log_std.clamp(-self._limit, self._limit)
        self._inside = log_std.abs() <= self._limit
        self._inverse = torch.exp(-self._log_std)
        self._error = (actions - self._mean).mul_(self._inverse)
        sums = self._log_std.sum(-1)
        constant = 0.5 * math.log(2 * math.pi) * self._error.shape[-1]
        log_prob = self._error.square().sum(-1).mul_(-0.5).sub_(sums).sub_(constant)
        return log_prob, sums + (constant + 0.5 * self._error.shape[-1])

    def divergence(self, before: Tensor) -> Tensor:
        """From another distribution, whose means and log deviations these are, to this one."""
        mean, log_std = before.chunk(2, -1)
        self._distance = (self._mean - mean).mul_(self._inverse)
        self._spread = torch.exp(2 * (log_std - self._log_std)).add_(self._distance.square())
        return (self._log_std - log_std + 0.5 * (self._spread - 1)).sum(-1)

    def differentiate(
        self, log_prob_gradient: Tensor, entropy_gradient: Tensor | None, divergence_gradient: Tensor | None = None
    ) -> Tensor:
        """The gradient with respect to means and log deviations."""
        of_log_prob = log_prob_gradient.unsqueeze(-1)
        of_mean = self._error * self._inverse * of_log_prob
        of_log_std = (self._error.square() - 1.0) * of_log_prob
        if entropy_gradient is not None:
            of_log_std += entropy_gradient.unsqueeze(-1)
        if divergence_gradient is not None:
            of_divergence = divergence_gradient.unsqueeze(-1)
            of_mean += self._distance * self._inverse * of_divergence
            of_log_std += (1.0 - self._spread) * of_divergence
        return torch.cat([of_mean, of_log_std * self._inside], -1)

    def sample(self, outputs: Tensor, *, deterministic: bool = False) -> tuple[Tensor, Tensor]:
        """All variables at once."""
        mean, log_std = outputs.chunk(2, -1)
        error = torch.zeros_like(mean) if deterministic else torch.randn_like(mean)
        actions = mean + error * torch.exp(log_std.clamp(-self._limit, self._limit))
        return actions, self.evaluate(outputs, actions)[0]
