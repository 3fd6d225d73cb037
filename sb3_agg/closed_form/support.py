"""What the closed form computes: networks and distributions of SB3's MlpPolicy, and why it does not compute others."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from sb3_contrib.common.maskable import distributions as maskable
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common import distributions
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space, preprocess_obs
from stable_baselines3.common.torch_layers import FlattenExtractor, MlpExtractor
from torch import Tensor, nn

from rl_agg.closed_form.actor_critic import ActorCritic
from rl_agg.closed_form.distributions import Bernoulli, Categorical, DiagonalGaussian, Distribution
from rl_agg.closed_form.layers import LinearLayer
from rl_agg.closed_form.memory import Memory
from rl_agg.closed_form.modules import NoClosedFormError, check_hooks, check_methods, check_parameters, linear_layers
from sb3_agg.local_models.stacked_optimizer import ELEMENTWISE

POLICIES: tuple[Any, ...] = (ActorCriticPolicy, MaskableActorCriticPolicy)
METHODS = (
    *("forward", "evaluate_actions", "predict_values", "extract_features", "obs_to_tensor"),
    *("_get_action_dist_from_latent", "set_training_mode"),
)
"""What must be SB3's own, as the closed form stands for it."""
STEP_HOOKS = ("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")


class Networks(NamedTuple):
    """What a policy consists of."""

    policy: list[LinearLayer]
    value: list[LinearLayer]
    log_std: nn.Parameter | None
    trained: list[nn.Parameter]


def networks_of(policy: Any) -> Networks:
    """Take a policy apart, if nothing in it differs from what SB3's MlpPolicy has.

    :param policy: SB3's actor-critic policy, as it is now.
    :raises NoClosedFormError: if something has no closed form, naming it.
    """
    kind = next((kind for kind in POLICIES if isinstance(policy, kind)), None)
    if kind is None:
        raise NoClosedFormError(f"policy {type(policy).__name__} is no ActorCriticPolicy")
    for name in METHODS:
        if getattr(type(policy), name) is not getattr(kind, name) or name in vars(policy):
            raise NoClosedFormError(f"policy {type(policy).__name__} overrides {name}()")
    if type(policy.action_dist) not in _DISTRIBUTIONS:
        raise NoClosedFormError(f"distribution {type(policy.action_dist).__name__}")
    check_hooks(policy)
    check_methods(policy.action_dist)
    for extractor in (policy.features_extractor, policy.pi_features_extractor, policy.vf_features_extractor):
        if type(extractor) is not FlattenExtractor or type(extractor.flatten) is not nn.Flatten:
            raise NoClosedFormError(f"features extractor {type(extractor).__name__}")
    if type(policy.mlp_extractor) is not MlpExtractor:
        raise NoClosedFormError(f"mlp_extractor {type(policy.mlp_extractor).__name__}")
    log_std, extractor = getattr(policy, "log_std", None), policy.mlp_extractor
    actor = linear_layers(extractor.policy_net, policy.action_net)
    critic = linear_layers(extractor.value_net, policy.value_net)
    return Networks(actor, critic, log_std, check_parameters(policy, actor + critic, [log_std]))


def check_optimizer(optimizer: Any, parts: Networks) -> None:
    """Check that steps of an optimiser can be taken on one vector.

    :param optimizer: The policy's.
    :param parts: Of the policy.
    :raises NoClosedFormError: if not, naming the reason.
    """
    name = type(optimizer).__name__
    if type(optimizer) not in ELEMENTWISE:
        raise NoClosedFormError(f"optimizer_class {name}")
    if len(optimizer.param_groups) > 1:
        raise NoClosedFormError("the optimiser has several groups of parameters")
    if "step" in vars(optimizer) or any(getattr(optimizer, hooks) for hooks in STEP_HOOKS):
        raise NoClosedFormError("the optimiser has hooks, or a step() of its own")
    held = {id(parameter) for parameter in optimizer.param_groups[0]["params"]}
    if any(id(parameter) not in held for parameter in parts.trained):
        raise NoClosedFormError("the optimiser lacks parameters that are trained")


def actor_critic(parts: Networks, memory: Memory) -> ActorCritic:
    """The networks of a policy, with parameters in a memory.

    :raises NoClosedFormError: if they share layers in a way that it does not know.
    """
    try:
        return ActorCritic(parts.policy, parts.value, memory)
    except ValueError as error:
        raise NoClosedFormError(str(error)) from error


def distribution_of(policy: Any, memory: Memory) -> Distribution:
    """The distribution over a policy's actions.

    :param policy: One that :func:`networks_of` knows.
    :param memory: Where its parameters are.
    """
    return _DISTRIBUTIONS[type(policy.action_dist)](policy, memory)


_DISTRIBUTIONS: dict[type, Callable[[Any, Memory], Distribution]] = {
    distributions.DiagGaussianDistribution: lambda policy, memory: DiagonalGaussian(policy.log_std, memory),
    distributions.CategoricalDistribution: lambda policy, _: Categorical([policy.action_dist.action_dim]),
    distributions.MultiCategoricalDistribution: lambda policy, _: Categorical(policy.action_dist.action_dims),
    distributions.BernoulliDistribution: lambda policy, _: Bernoulli(),
    maskable.MaskableCategoricalDistribution: lambda policy, _: Categorical([policy.action_dist.action_dim]),
    maskable.MaskableMultiCategoricalDistribution: lambda policy, _: Categorical(policy.action_dist.action_dims),
    maskable.MaskableBernoulliDistribution: lambda policy, _: Categorical(policy.action_dist.action_dims),
}


def features_of(policy: Any) -> Callable[[Any], Tensor]:
    """What the networks see of observations: ``[B, ...]`` to ``[B, F]``."""
    space = policy.observation_space
    if isinstance(space, spaces.Box) and not (policy.normalize_images and is_image_space(space)):
        return _flatten
    preprocess = partial(preprocess_obs, observation_space=space, normalize_images=policy.normalize_images)
    return lambda observations: _flatten(preprocess(observations))  # type: ignore[arg-type]


def _flatten(observations: Tensor) -> Tensor:
    return observations.to(torch.float32).flatten(1)
