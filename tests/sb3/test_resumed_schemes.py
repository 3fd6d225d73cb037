"""A run resumed from a file is the uninterrupted one to the bit, whatever is exchanged, how it is encoded, and when."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import tree
from stable_baselines3 import PPO

from sb3_agg import AggPPO
from tests.sb3.flattened import parameters
from tests.sb3.matrix_runs import AGENTS, STEPS, build
from tests.sb3.resumed_runs import SaveOnce, resumed_from
from tests.sb3.worlds import cartpoles

ROLLOUT = STEPS * AGENTS
LAG = {"communication": "lag", "communication_kwargs": {"xi": 50.0}}
FLOAT16 = {"compression": "float16"}  # whose error feedback is on
TOP_K = {"compression": "top_k", "compression_kwargs": {"fraction": 0.1}}
EF21 = {"compression_kwargs": {"fraction": 0.1, "error_feedback": "ef21"}}
BROADCAST = {"broadcast_compression": "top_k", "broadcast_compression_kwargs": {"fraction": 0.1}}
SCHEMES: dict[str, dict[str, Any]] = {
    "lag over parameters": {"aggregation": "fedavg", **LAG},
    "float16 over gradients": {"aggregation": "mean", **FLOAT16},
    "float16 over parameters": {"aggregation": "fedavg", **FLOAT16},
    "interval of gradients": {"aggregation": "l_weighted", "interval": 3},  # of 8 steps in a rollout
    "interval of parameters": {"aggregation": "fedavg", "interval": 3},
    "interval of krum over parameters": {"aggregation": "krum", "payload": "parameters", "interval": 3},
    "parameter differences": {"aggregation": "mean", "payload": "parameter_differences", **FLOAT16},
    "top_k over gradients": {"aggregation": "mean", **TOP_K},
    "chain over parameters": {"aggregation": "fedavg", "compression": ("top_k", "float16"), **EF21},
    "quantize over differences": {"aggregation": "mean", "payload": "parameter_differences", "compression": "quantize"},
    "random senders": {"aggregation": "median", "communication": "random", "communication_kwargs": {"expected_messages": 3}},
    "explained variance": {"aggregation": "e_weighted"},
    "agreement over gradients": {"aggregation": "agreement"},
    "guarded over parameters": {"aggregation": "guarded", "payload": "parameters", "interval": 3},
    "lag and signals": {"aggregation": "r_weighted", **LAG},
    "encoded broadcasts": {"aggregation": "l_weighted", "broadcast_compression": "quantize"},
    "encoded broadcasts of parameters": {"aggregation": "fedavg", **BROADCAST, "interval": 3},
    "a budget of bytes": {"aggregation": "mean", **LAG, "budget_bytes_per_update": 5_000},
    "all axes": {
        "aggregation": "r_weighted",
        "payload": "parameter_differences",
        **LAG,
        **FLOAT16,
        **BROADCAST,
        "interval": 3,
    },
}


@pytest.mark.parametrize("name", SCHEMES)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    """Four rollouts, then three more: an interval of three is not over where the file is written."""
    uninterrupted = build("discrete", **SCHEMES[name])
    saved = SaveOnce(tmp_path / "model", after=4 * ROLLOUT)
    uninterrupted.learn(7 * ROLLOUT, callback=saved)
    resumed = resumed_from(saved, AggPPO)
    check_memory(SCHEMES[name], resumed.exchange.state_dict())
    resumed.learn(3 * ROLLOUT, reset_num_timesteps=False)
    assert resumed.num_timesteps == uninterrupted.num_timesteps
    assert torch.equal(parameters(resumed), parameters(uninterrupted))
    for read in (lambda model: model.get_parameters(), lambda model: model.ledger.state_dict(), lambda m: m.agent_returns):
        tree.map_structure(np.testing.assert_array_equal, read(resumed), read(uninterrupted))


@pytest.mark.parametrize("name", SCHEMES)
def test_stock_ppo_opens_the_file(name: str, tmp_path: Path) -> None:
    model = build("discrete", **SCHEMES[name]).learn(2 * ROLLOUT)
    model.save(tmp_path / "model")
    stock = PPO.load(tmp_path / "model", env=cartpoles(AGENTS), device="cpu")
    assert torch.equal(parameters(stock), parameters(model))
    stock.learn(ROLLOUT)
    assert not torch.equal(parameters(stock), parameters(model))


def check_memory(settings: dict[str, Any], state: Mapping[str, Any]) -> None:
    """The exchange that was loaded remembers what the next steps depend on."""
    uplink = state["uplink"]
    if settings.get("communication") == "lag":
        assert uplink["has_sent"].any()
        assert uplink["last"].any()
        assert uplink["gate"]["steps"] is not None
    if "compression" in settings:
        assert uplink["memory"].any()
    if "broadcast_compression" in settings:
        assert state["downlink"]["lost"].any()
    if "budget_bytes_per_update" in settings:
        assert state["budget"]["value"] != LAG["communication_kwargs"]["xi"]
    if "interval" in settings:
        assert state["since_last"] > 0
    if settings["aggregation"] in ("e_weighted", "agreement"):
        (signal,) = state["memory"].values()
        assert signal["means"].any()
    if settings.get("interval") == 3 and state["scheme"]["payload"] == "gradients":
        assert state["accumulation"]["sums"]["gradients"].any()
