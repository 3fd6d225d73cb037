"""A Ray Tune sweep over all kinds of names that ``aggregation=`` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray import tune

NAMES = ["actor_mean", "fedavg", "krum", "r_weighted"]


def train(config: dict[str, Any]) -> None:
    """What a user's trainable does."""
    import torch
    from stable_baselines3.common.env_util import make_vec_env

    from sb3_agg import AggPPO

    torch.set_num_threads(1)
    venv = make_vec_env("CartPole-v1", 8, seed=0)
    model = AggPPO("MlpPolicy", venv, n_steps=16, batch_size=32, n_epochs=2, seed=0, device="cpu", **config).learn(256)
    totals = {name: model.logger.name_to_value[f"agg/{name}"] for name in ("messages", "bytes")}
    tune.report({**totals, "return": sum(episode["r"] for episode in model.ep_info_buffer) / len(model.ep_info_buffer)})


@pytest.mark.remote
def test_a_rule_a_combiner_and_schemes_in_one_grid(ray_session: None, tmp_path: Path) -> None:
    tuner = tune.Tuner(
        train,
        param_space={"aggregation": tune.grid_search(NAMES)},
        run_config=tune.RunConfig(storage_path=str(tmp_path), verbose=0),
        tune_config=tune.TuneConfig(max_concurrent_trials=1, reuse_actors=True),  # one process for all
    )
    results = tuner.fit()
    assert not results.errors
    found = {result.config["aggregation"]: result.metrics for result in results}
    assert sorted(found) == NAMES
    for name, metrics in found.items():
        # Eight agents: two merges of copies, or 2 updates x 2 epochs x 4 minibatches of gradients.
        assert metrics["messages"] == 8 * (2 if name in ("fedavg", "fedprox") else 16), name
        assert metrics["return"] > 8
