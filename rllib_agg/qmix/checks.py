"""What of a QMIXConfig cannot be."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils import force_list

from rl_agg.payloads import MOMENTS, PERIODIC_SHARINGS
from rl_agg.validation import check_count, check_flag, check_number, unknown_choice
from rllib_agg.envs.team.credits import CREDITS
from rllib_agg.envs.team.team import TeamSpec
from rllib_agg.qmix.networks import LAYERS

MIXERS = ("qmix", "vdn")
SHARINGS = ("none", "full", *PERIODIC_SHARINGS)
FLAGS = ("double_q", "bootstrap_at_time_limit", "store_buffer_in_checkpoints", "same_init", "within_type", "merge_targets")
COUNTS = (
    "mixing_embed_dim",
    "target_network_update_freq",
    "train_batch_size_per_learner",
    "num_envs_per_env_runner",
    "num_torch_threads",
    "sharing_interval",
    "reward_buffer_size",
)
NEVER_CALLED = (
    "on_episode_created",
    "on_episode_start",
    "on_episode_step",
    "on_episode_end",
    "on_sample_end",
    "on_environment_created",
)
"""Callbacks of RLlib's env runners."""


def check_config(config: Any) -> None:
    """Refuse settings that cannot be.

    :param config: A QMIXConfig.
    :raises ValueError: naming the one that is wrong.
    """
    classes = force_list(config.callbacks_class)
    for name in NEVER_CALLED:
        stock, given = getattr(RLlibCallback, name), getattr(config, f"callbacks_{name}")
        if given is not None or any(getattr(kind, name, stock) is not stock for kind in classes):
            raise ValueError(f"QMIXConfig plays episodes in batches and never calls {name}; leave it out")
    if config.explore:
        raise ValueError("QMIXConfig's agents explore by epsilon; leave explore=False")
    if config.mixer is not None and config.mixer not in MIXERS:
        raise unknown_choice("mixer", config.mixer, [*MIXERS, "None"])
    if config.parameter_sharing not in SHARINGS:
        raise unknown_choice("parameter_sharing", config.parameter_sharing, SHARINGS)
    if config.credit is not None and config.credit not in [*CREDITS]:
        raise unknown_choice("credit", config.credit, CREDITS)
    if config.moments not in MOMENTS:
        raise unknown_choice("moments", config.moments, MOMENTS)
    for name in COUNTS:
        check_count(name, getattr(config, name), least=1)
    check_count("num_steps_sampled_before_learning_starts", config.num_steps_sampled_before_learning_starts, least=0)
    if config.rollouts_per_iteration is not None:
        check_count("rollouts_per_iteration", config.rollouts_per_iteration, least=1)
    for name in FLAGS:
        check_flag(name, getattr(config, name))
    if config.agent_ids is not None:
        check_flag("agent_ids", config.agent_ids)
    check_number("gamma", config.gamma, least=0, most=1)
    config.check_lr()
    if config.grad_clip is not None:
        check_number("grad_clip", config.grad_clip, above=0)
    check_number("tau", config.tau, above=0, most=1)
    check_number("td_lambda", config.td_lambda, least=0, most=1)
    check_number("reward_scale", config.reward_scale, above=0)
    check_number("updates_per_episode", config.updates_per_episode, above=0)
    check_epsilon(config.epsilon)
    check_layers(config.shared_layers)
    check_count("hidden_dim", config.model_config["hidden_dim"], least=1)
    check_count("hypernet_dim", config.model_config["hypernet_dim"], least=0)
    check_flag("orthogonal_init", config.model_config["orthogonal_init"])
    capacity, batch = config.replay_settings.capacity, config.train_batch_size_per_learner
    if capacity < batch:
        raise ValueError(
            f"a replay of capacity={capacity} never holds a batch of train_batch_size_per_learner={batch} episodes"
        )


def check_shape(config: Any, spec: TeamSpec) -> None:
    """Refuse what does not fit an environment.

    :param config: A QMIXConfig.
    :param spec: The environment's sizes.
    :raises ValueError: naming the setting, or the environment's fault.
    """
    for name in ("num_agents", "num_actions", "observation_size", "max_episode_steps"):
        check_count(f"{config.env}'s {name}", getattr(spec, name), least=1)
    config.replay_settings.check(spec)


def check_epsilon(epsilon: Any) -> None:
    """Refuse what is neither a share nor a schedule of shares.

    :raises ValueError: naming the value.
    """
    if not isinstance(epsilon, Sequence) or isinstance(epsilon, str):
        check_number("epsilon", epsilon, least=0, most=1)
        return
    if not epsilon or any(not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2 for point in epsilon):
        raise ValueError(f"epsilon must be a number or [[env steps, number], ...], got {epsilon!r}")
    for step, value in epsilon:
        check_number("a step of epsilon", step, least=0)
        check_number("epsilon", value, least=0, most=1)
    steps = [step for step, _ in epsilon]
    if sorted(set(steps)) != steps:
        raise ValueError(f"epsilon's env steps must ascend, got {epsilon!r}")


def check_layers(layers: Any) -> None:
    """Refuse what are no layers of the agents' networks.

    :raises ValueError: naming the choices.
    """
    if isinstance(layers, str) or not isinstance(layers, Sequence) or not layers:
        raise ValueError(f"shared_layers must be a sequence of {', '.join(LAYERS)}, got {layers!r}")
    for layer in layers:
        if layer not in LAYERS:
            raise unknown_choice("shared layer", layer, LAYERS)
