"""Settings of QMIX by the name of where they come from."""

from __future__ import annotations

from typing import Any

COMMON: dict[str, Any] = {
    "mixer": "qmix",
    "mixing_embed_dim": 32,
    "gamma": 0.99,
    "grad_clip": 10.0,
    "replay_buffer_config": {"capacity": 5000},
    "epsilon": [[0, 1.0], [50_000, 0.05]],
    "double_q": True,
    "tau": 1.0,
    "reward_scale": 1.0,
    "sharing_interval": 300,
    "reward_buffer_size": 96,
}

DEFAULTS: dict[str, Any] = {
    **COMMON,
    "lr": 1e-3,
    "train_batch_size_per_learner": 128,
    "epsilon": [[0, 1.0], [20_000, 0.05]],
    "td_lambda": 0.6,
    "bootstrap_at_time_limit": None,
    "target_network_update_freq": 100,
    "updates_per_episode": 0.5,
    "average_decay": 0.99,
    "reward_normalization": "scale",
    "normalize_states": True,
    "parameter_sharing": "full",
    "same_init": True,
}
"""What a config begins with; docs/qmix.md has what it was seen to learn."""

TABLE_1: dict[str, Any] = {
    **COMMON,
    "lr": 5e-4,
    "train_batch_size_per_learner": 96,
    "td_lambda": 0.0,
    "bootstrap_at_time_limit": True,
    "target_network_update_freq": 200,
    "updates_per_episode": 1.0,
    "average_decay": None,
    "reward_normalization": None,
    "normalize_states": False,
    "parameter_sharing": "none",
    "same_init": False,
}
"""Zhang et al. (2024), table 1; the width of the mixer, which it does not give, as in Rashid et al. (2018)."""

PRESETS: dict[str, dict[str, Any]] = {
    "paper": TABLE_1,
    "pymarl2": {
        **TABLE_1,
        "lr": 1e-3,
        "train_batch_size_per_learner": 128,
        "epsilon": [[0, 1.0], [100_000, 0.05]],
        "td_lambda": 0.6,
        "target_network_update_freq": 25,
        "updates_per_episode": 0.125,
        "parameter_sharing": "full",
        "same_init": True,
    },
    "epymarl": {
        **TABLE_1,
        "train_batch_size_per_learner": 32,
        "bootstrap_at_time_limit": None,
        "reward_normalization": "standardize",
        "parameter_sharing": "full",
        "same_init": True,
    },
}
"""``paper``: :data:`TABLE_1`. ``pymarl2``: Hu et al. (2021), as their ``qmix`` for 8 environments at once, targets updated
every 200 episodes. ``epymarl``: Papoudakis et al. (2021), as their ``qmix`` with recurrent agents and rewards standardised."""

MODELS: dict[str, dict[str, Any]] = {
    "paper": {"orthogonal_init": True, "mixer_init_scale": 1.0},
    "pymarl2": {"mixer_init_scale": 1.0},
    "epymarl": {"mixer_init_scale": 1.0},
}
"""Of the module."""

UPDATES_OF_TARGETS: dict[str, dict[str, Any]] = {
    "hard": {"target_network_update_freq": 200, "tau": 1.0},
    "soft": {"target_network_update_freq": 1, "tau": 0.05},
}
"""The paper's table has both."""

WEIGHTS_OF_QTRAN = {"lambda_opt": 1.0, "lambda_nopt": 0.1}
"""Those of PyMARL."""
