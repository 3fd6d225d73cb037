r"""What PPO and A2C minimise, differentiated with respect to a policy's outputs. Axis B: samples of a minibatch.

A sample's loss reaches the parameters only through its value V, its log-probability and its entropy H.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.utils import explained_variance
from torch import Tensor

from sb3_agg.rollouts.losses import SampleLosses, a2c_losses, ppo_losses


class PolicyOutputs(NamedTuple):
    """A policy's outputs, or a loss's gradient with respect to them."""

    values: Tensor
    """``[B]``"""
    log_prob: Tensor
    """``[B]``"""
    entropy: Tensor | None
    """``[B]``; ``None``: no gradient."""


class Objective(ABC):
    """The loss of one call of ``train()``, and the numbers that SB3 logs of it.

    :param model: SB3's algorithm.
    """

    num_epochs = 1
    batch_size: int | None = None
    sample_losses: ClassVar[SampleLosses]
    """The same as a loss per sample, see :mod:`sb3_agg.rollouts.losses`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._records: list[tuple[Tensor, ...]] = []

    @abstractmethod
    def differentiate(self, samples: Any, outputs: PolicyOutputs) -> PolicyOutputs:
        """The gradient of the mean loss with respect to the outputs.

        :param samples: SB3's rollout samples.
        :param outputs: Of the policy.
        """

    @abstractmethod
    def losses(self) -> Tensor:
        """The losses of the last minibatch's samples ``[B]``."""

    @abstractmethod
    def log(self) -> None:
        """Log what SB3 logs."""

    @abstractmethod
    def end_epoch(self) -> None:
        """Reduce what was recorded to the means of the minibatches."""

    def stops(self, epoch: int) -> bool:
        """Whether the policy has moved too far for another step.

        :param epoch: The current one, for the message.
        """
        return False

    def _advantages(self, samples: Any, least: int) -> Tensor:
        advantages: Tensor = samples.advantages
        if not self._model.normalize_advantage or len(advantages) < least:
            return advantages
        return (advantages - advantages.mean()) / (advantages.std() + 1e-8)

    def _total(self, gains: Tensor, squares: Tensor, entropy: Tensor) -> Tensor:
        losses: Tensor = self._model.vf_coef * squares - gains
        if self._model.ent_coef != 0.0:
            losses -= self._model.ent_coef * entropy
        return losses

    def _entropy_gradient(self, samples: Any) -> Tensor | None:
        if self._model.ent_coef == 0.0:
            return None
        return torch.full_like(samples.returns, -self._model.ent_coef / len(samples.returns))

    def _means(self) -> NDArray[np.float64]:
        """The mean of each recorded quantity in each minibatch ``[minibatches, quantities]``."""
        lengths = np.array([len(record[0]) for record in self._records])
        columns = [torch.cat(column).double().cpu().numpy() for column in zip(*self._records, strict=True)]
        starts = np.concatenate([[0], lengths.cumsum()[:-1]])
        return np.stack([np.add.reduceat(column, starts) / lengths for column in columns], axis=1)

    def _log_common(self) -> None:
        model = self._model
        buffer = model.rollout_buffer
        record = model.logger.record
        record("train/explained_variance", explained_variance(buffer.values.flatten(), buffer.returns.flatten()))
        if hasattr(model.policy, "log_std"):
            record("train/std", torch.exp(model.policy.log_std).mean().item())
        record("train/n_updates", model._n_updates, exclude="tensorboard")


class PPOObjective(Objective):
    r"""PPO's: :math:`-\min(\rho A, \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon) A) - c_H H + c_V (R - V)^2`.

    :math:`\partial / \partial \log \pi` is :math:`-\rho A` where the first argument is the smaller one, and 0 elsewhere.

    Source: Schulman et al. (2017), equation 9, as in stable_baselines3/ppo/ppo.py.
    """

    sample_losses = staticmethod(ppo_losses)

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        progress = model._current_progress_remaining
        self.num_epochs, self.batch_size = model.n_epochs, model.batch_size
        self._clip = model.clip_range(progress)
        self._clip_vf = None if model.clip_range_vf is None else model.clip_range_vf(progress)
        self._summaries: list[NDArray[np.float64]] = []

    def differentiate(self, samples: Any, outputs: PolicyOutputs) -> PolicyOutputs:
        """The gradient with respect to the outputs."""
        advantages = self._advantages(samples, least=2)
        log_ratio = outputs.log_prob - samples.old_log_prob
        ratio = log_ratio.exp()
        surrogate = advantages * ratio
        clipped = advantages * ratio.clamp(1 - self._clip, 1 + self._clip)
        scale = 1.0 / len(ratio)
        of_log_prob = (surrogate * (surrogate <= clipped)).mul_(-scale)
        change, errors = None, outputs.values - samples.returns
        if self._clip_vf is not None:
            change = outputs.values - samples.old_values
            errors = samples.old_values + change.clamp(-self._clip_vf, self._clip_vf) - samples.returns
        of_values = errors * (2.0 * self._model.vf_coef * scale)
        if change is not None:
            of_values *= change.abs() <= self._clip_vf
        entropy = outputs.entropy
        assert entropy is not None
        self._records.append((torch.minimum(surrogate, clipped), log_ratio, ratio, errors, entropy))
        return PolicyOutputs(of_values, of_log_prob, self._entropy_gradient(samples))

    def losses(self) -> Tensor:
        """The losses of the last minibatch's samples."""
        surrogate, _, _, errors, entropy = self._records[-1]
        return self._total(surrogate, errors.square(), entropy)

    def stops(self, epoch: int) -> bool:
        """Whether the divergence exceeds 1.5 times ``target_kl``."""
        model = self._model
        if model.target_kl is None:
            return False
        _, log_ratio, ratio, *_ = self._records[-1]
        divergence = ((ratio - 1) - log_ratio).mean().item()
        if not divergence > 1.5 * model.target_kl:  # NaN does not stop SB3 either
            return False
        if model.verbose >= 1:
            print(f"Early stopping at step {epoch} due to reaching max kl: {divergence:.2f}")
        return True

    def end_epoch(self) -> None:
        """Reduce what was recorded to the means of the minibatches."""
        self._records = [
            (surrogate, (ratio - 1) - log_ratio, ((ratio - 1).abs() > self._clip).to(ratio.dtype), errors.square(), entropy)
            for surrogate, log_ratio, ratio, errors, entropy in self._records
        ]
        self._summaries.append(self._means())
        self._records = []

    def log(self) -> None:
        """Log what PPO logs."""
        model, record = self._model, self._model.logger.record
        surrogate, _, clipped, squares, entropy = np.concatenate(self._summaries).mean(0)
        record("train/entropy_loss", -entropy)
        record("train/policy_gradient_loss", -surrogate)
        record("train/value_loss", squares)
        record("train/approx_kl", self._summaries[-1][:, 1].mean())
        record("train/clip_fraction", clipped)
        last = self._summaries[-1][-1]
        record("train/loss", float(-last[0] - model.ent_coef * last[4] + model.vf_coef * last[3]))
        self._log_common()
        record("train/clip_range", self._clip)
        if self._clip_vf is not None:
            record("train/clip_range_vf", self._clip_vf)


class A2CObjective(Objective):
    r"""A2C's: :math:`-A \log\pi - c_H H + c_V (R - V)^2`.

    Source: Mnih et al. (2016), as in stable_baselines3/a2c/a2c.py.
    """

    sample_losses = staticmethod(a2c_losses)

    def differentiate(self, samples: Any, outputs: PolicyOutputs) -> PolicyOutputs:
        """The gradient with respect to the outputs."""
        advantages, scale = self._advantages(samples, least=1), 1.0 / len(samples.returns)
        errors = outputs.values - samples.returns
        entropy = outputs.entropy
        assert entropy is not None
        self._records.append((advantages * outputs.log_prob, errors.square(), entropy))
        return PolicyOutputs(
            errors * (2.0 * self._model.vf_coef * scale), advantages * -scale, self._entropy_gradient(samples)
        )

    def losses(self) -> Tensor:
        """The losses of the samples."""
        return self._total(*self._records[-1])

    def end_epoch(self) -> None:
        """Nothing: the one epoch's means are taken when they are logged."""

    def log(self) -> None:
        """Log what A2C logs."""
        gains, squares, entropy = self._means()[-1]
        self._log_common()
        record = self._model.logger.record
        record("train/entropy_loss", -float(entropy))
        record("train/policy_loss", -float(gains))
        record("train/value_loss", float(squares))
