"""Checks of a QMIXConfig."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils import force_list

from rl_agg.validation import check_count, check_flag, check_number, unknown_choice
from rllib_agg.envs.team.credits import CREDITS
from rllib_agg.envs.team.interface import TeamSpec
from rllib_agg.qmix.normalization import REWARDS
from rllib_agg.qmix.presets import WEIGHTS_OF_QTRAN
from rllib_agg.qmix.weighted import ALPHAS

CHOICES: dict[str, tuple[str | None, ...]] = {
    "mixer": ("qmix", "vdn", "qtran", None),
    "weighting": (*ALPHAS, None),
    "credit": (*CREDITS, None),
    "reward_normalization": (*REWARDS, None),
}
BOUNDS: dict[str, dict[str, float]] = {
    "tau": {"above": 0, "most": 1},
    "td_lambda": {"least": 0, "most": 1},
    "reward_scale": {"above": 0},
    "lambda_opt": {"above": 0},
    "lambda_nopt": {"least": 0},
    "updates_per_episode": {"above": 0},
}
FLAGS = ("double_q", "normalize_states", "store_buffer_in_checkpoints", "same_init", "within_type", "merge_targets")
COUNTS = (
    "mixing_embed_dim",
    "target_network_update_freq",
    "train_batch_size_per_learner",
    "num_envs_per_env_runner",
    "num_torch_threads",
    "sharing_interval",
    "reward_buffer_size",
)
WITHOUT_STATE = ("vdn", None)
"""Mixers that do not read the state, which may be empty."""

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
    """Check what does not depend on the environment; ``ValueError`` names the setting."""
    classes = force_list(config.callbacks_class)
    for name in NEVER_CALLED:
        stock, given = getattr(RLlibCallback, name), getattr(config, f"callbacks_{name}")
        if given is not None or any(getattr(kind, name, stock) is not stock for kind in classes):
            raise ValueError(f"QMIXConfig plays episodes in batches and never calls {name}; leave it out")
    if config.explore:
        raise ValueError("QMIXConfig's agents explore by epsilon; leave explore=False")
    for name, choices in CHOICES.items():
        value = getattr(config, name)
        if value not in choices:
            raise unknown_choice(name, value, [*map(str, choices)])
    for name in COUNTS:
        check_count(name, getattr(config, name), least=1)
    check_count("num_steps_sampled_before_learning_starts", config.num_steps_sampled_before_learning_starts, least=0)
    if config.rollouts_per_iteration is not None:
        check_count("rollouts_per_iteration", config.rollouts_per_iteration, least=1)
    for name in FLAGS:
        check_flag(name, getattr(config, name))
    for name in ("agent_ids", "bootstrap_at_time_limit"):
        if getattr(config, name) is not None:
            check_flag(name, getattr(config, name))
    for name, bounds in BOUNDS.items():
        check_number(name, getattr(config, name), **bounds)
    if config.average_decay is not None:
        check_number("average_decay", config.average_decay, least=0, below=1)
    config.check_lr()
    check_loss(config)
    check_epsilon(config.epsilon)
    _ = config.sharing
    check_count("hidden_dim", config.model_config["hidden_dim"], least=1)
    check_count("hypernet_dim", config.model_config["hypernet_dim"], least=0)
    check_count("central_dim", config.model_config["central_dim"], least=1)
    check_flag("orthogonal_init", config.model_config["orthogonal_init"])
    check_number("mixer_init_scale", config.model_config["mixer_init_scale"], above=0)
    capacity, batch = config.replay_settings.capacity, config.train_batch_size_per_learner
    if capacity < batch:
        raise ValueError(
            f"a replay of capacity={capacity} never holds a batch of train_batch_size_per_learner={batch} episodes"
        )


def check_loss(config: Any) -> None:
    """Check that the settings of a loss are those of the loss that is chosen; ``ValueError`` names both."""
    if config.weighting is not None and config.mixer != "qmix":
        raise ValueError(
            f"weighting={config.weighting!r} weights the loss of mixer='qmix', but mixer={config.mixer!r} was given; "
            "leave one out"
        )
    if config.weighting_alpha is not None:
        check_number("weighting_alpha", config.weighting_alpha, above=0, most=1)
        if config.weighting is None:
            raise ValueError(
                f"weighting_alpha={config.weighting_alpha!r} has no effect with weighting=None; set weighting, to one of "
                + ", ".join(ALPHAS)
            )
    for name, default in WEIGHTS_OF_QTRAN.items():
        value = getattr(config, name)
        if value != default and config.mixer != "qtran":
            raise ValueError(
                f"{name}={value!r} weights a loss of mixer='qtran', but mixer={config.mixer!r} was given; leave one out"
            )


def check_shape(config: Any, spec: TeamSpec) -> None:
    """Check a config against an environment's sizes; ``ValueError`` names the setting, or the environment's fault."""
    for name in ("num_agents", "num_actions", "observation_size", "max_episode_steps"):
        check_count(f"{config.env}'s {name}", getattr(spec, name), least=1)
    check_count(f"{config.env}'s state_size", spec.state_size, least=0 if config.mixer in WITHOUT_STATE else 1)
    config.replay_settings.check(spec)
    scheme = config.sharing
    for agents in config.groups(spec) if scheme else ():
        scheme.check(len(agents))


def check_epsilon(epsilon: Any) -> None:
    """Raise ``ValueError`` if epsilon is neither a share nor a schedule of shares."""
    scheduled = isinstance(epsilon, Sequence) and not isinstance(epsilon, str)
    points = epsilon if scheduled else [[0, epsilon]]
    if not points or any(not isinstance(point, Sequence) or isinstance(point, str) or len(point) != 2 for point in points):
        raise ValueError(f"epsilon must be a number or [[env steps, number], ...], got {epsilon!r}")
    for step, value in points:
        check_number("a step of epsilon", step, least=0)
        check_number("epsilon", value, least=0, most=1)
    if any(after[0] <= before[0] for before, after in pairwise(points)):
        raise ValueError(f"epsilon's env steps must ascend, got {epsilon!r}")
