"""What the PPS-QMIX paper sets.

Source: Zhang et al. (2024), table 1; the width of the mixer, which it does not give, as in Rashid et al. (2018).
"""

from __future__ import annotations

from typing import Any

MODEL = {"hidden_dim": 64, "hypernet_dim": 64, "orthogonal_init": True}
"""The networks."""

TABLE_1: dict[str, Any] = {
    "mixer": "qmix",
    "mixing_embed_dim": 32,
    "gamma": 0.99,
    "lr": 5e-4,
    "grad_clip": 10.0,
    "train_batch_size_per_learner": 96,
    "replay_buffer_config": {"capacity": 5000},
    "epsilon": [[0, 1.0], [50_000, 0.05]],
    "double_q": True,
    "td_lambda": 0.0,
    "bootstrap_at_time_limit": True,
    "updates_per_episode": 1.0,
    "sharing_interval": 300,
    "reward_buffer_size": 96,
    "same_init": False,
}
UPDATES_OF_TARGETS: dict[str, dict[str, Any]] = {
    "hard": {"target_network_update_freq": 200, "tau": 1.0},
    "soft": {"target_network_update_freq": 1, "tau": 0.05},
}
"""The table has both."""
