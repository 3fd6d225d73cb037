r"""Loss of every sample, as SB3's ``train()`` averages it, for rules that weigh agents by their loss.

Nothing is differentiated here. Axis B: samples of a minibatch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Outputs = tuple[Tensor | None, ...]
"""Values ``[B, 1]``, log-probabilities ``[B]``, entropies ``[B]`` or ``None``, and whatever else a policy returns."""

SampleLosses = Callable[..., Tensor]
"""``losses(samples, values, log_prob, entropy) -> [B]``"""


def ppo_losses(model: Any, samples: Any, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> Tensor:
    r"""PPO's loss per sample.

    :math:`-\min(\rho A, \mathrm{clip}(\rho, 1-\epsilon, 1+\epsilon) A) - c_H H + c_V (R - V)^2`

    :param model: PPO, MaskablePPO or RecurrentPPO; its coefficients and current clip ranges are read.
    :param samples: SB3's rollout samples.
    :param values: ``[B, 1]`` or ``[B]``.
    :param log_prob: ``[B]``.
    :param entropy: ``[B]``, or ``None`` where the distribution has no closed form.
    :return: ``[B]``.

    Source: Schulman et al. (2017), equation 9, as in stable_baselines3/ppo/ppo.py.
    """
    progress = model._current_progress_remaining
    clip = model.clip_range(progress)
    advantages = _normalized(model, samples)
    ratio = torch.exp(log_prob - samples.old_log_prob)
    policy_losses = -torch.min(advantages * ratio, advantages * ratio.clamp(1 - clip, 1 + clip))
    values = values.flatten()
    if model.clip_range_vf is not None:
        clip_vf = model.clip_range_vf(progress)
        values = samples.old_values + (values - samples.old_values).clamp(-clip_vf, clip_vf)
    return _total(model, samples, policy_losses, values, log_prob, entropy)


def a2c_losses(model: Any, samples: Any, values: Tensor, log_prob: Tensor, entropy: Tensor | None) -> Tensor:
    r"""A2C's loss per sample: :math:`-A \log\pi - c_H H + c_V (R - V)^2`.

    Parameters and return value as :func:`ppo_losses`.

    Source: Mnih et al. (2016), as in stable_baselines3/a2c/a2c.py.
    """
    policy_losses = -_normalized(model, samples) * log_prob
    return _total(model, samples, policy_losses, values.flatten(), log_prob, entropy)


def _normalized(model: Any, samples: Any) -> Tensor:
    advantages: Tensor = samples.advantages
    if not model.normalize_advantage or len(advantages) < 2:
        return advantages
    mask = getattr(samples, "mask", None)
    counted = advantages if mask is None else advantages[mask > 0]
    return (advantages - counted.mean()) / (counted.std() + 1e-8)


def _total(
    model: Any, samples: Any, policy_losses: Tensor, values: Tensor, log_prob: Tensor, entropy: Tensor | None
) -> Tensor:
    losses: Tensor = policy_losses + model.vf_coef * (samples.returns - values).square()
    if model.ent_coef != 0.0:
        losses = losses + model.ent_coef * (log_prob if entropy is None else -entropy)
    return losses
