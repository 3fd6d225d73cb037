"""Combiners and gates in files; messages and bytes in the log."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO

from sb3_agg import AggPPO
from tests.sb3.flattened import parameters
from tests.sb3.matrix_runs import AGENTS, STEPS, build
from tests.sb3.resumed_runs import SaveOnce, resumed_from
from tests.sb3.worlds import cartpoles, walks

pytestmark = pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")


# Files ----------------------------------------------------------------------------------------------------------------------

RESUMED: dict[str, dict[str, Any]] = {
    "mixtailor": {"aggregation": "mixtailor", "attack": {"kind": "random", "agents": [1], "scale": 2.0}},
    "lag": {"aggregation": "median", "communication": "lag", "communication_kwargs": {"xi": 0.5}},
    "lag_mean": {"aggregation": "r_weighted", "communication": "lag", "communication_kwargs": {"xi": 0.5, "window": 4}},
    "torchjd": {"aggregation": "torchjd:TrimmedMean", "aggregation_kwargs": {"trim_number": 1}},
    "torchjd_memory": {"aggregation": "torchjd:GradVac"},
}


@pytest.mark.parametrize("name", RESUMED)
def test_a_resumed_run_is_the_uninterrupted_one(name: str, tmp_path: Path) -> None:
    rollout = STEPS * AGENTS
    uninterrupted = build("discrete", **RESUMED[name])
    saved = SaveOnce(tmp_path / "model", after=2 * rollout)
    uninterrupted.learn(4 * rollout, callback=saved)

    resumed = resumed_from(saved, AggPPO)
    assert resumed.exchange.num_exchanges == 2 * 8
    resumed.learn(2 * rollout, reset_num_timesteps=False)
    assert resumed.num_timesteps == uninterrupted.num_timesteps
    assert torch.equal(parameters(resumed), parameters(uninterrupted))
    assert resumed.ledger.state_dict() == uninterrupted.ledger.state_dict()
    gates = [model.exchange.state_dict()["uplink"] for model in (resumed, uninterrupted)]
    if gates[0]["last"] is not None:
        assert resumed.ledger.messages < resumed.ledger.bytes_down / 4 / 9155  # it did hold messages back
        assert all(torch.equal(gates[0][key], gates[1][key]) for key in ("last", "has_sent"))
        assert torch.equal(gates[0]["gate"]["steps"], gates[1]["gate"]["steps"])


def test_a_stock_file_trains_on_with_a_combiner(tmp_path: Path) -> None:
    stock = PPO("MlpPolicy", cartpoles(AGENTS), n_steps=STEPS, batch_size=20, seed=0, device="cpu").learn(STEPS * AGENTS)
    stock.save(tmp_path / "stock")
    settings = {"aggregation": "median", "communication": "lag", "attack": {"kind": "nan", "agents": [0]}}
    model = AggPPO.load(tmp_path / "stock", env=cartpoles(AGENTS), device="cpu", **settings)
    assert torch.equal(parameters(model), parameters(stock))
    model.learn(STEPS * AGENTS, reset_num_timesteps=False)
    assert not torch.equal(parameters(model), parameters(stock))
    assert model.ledger.messages_per_agent[0] == 0
    assert model.ledger.messages > 0
    model.save(tmp_path / "combined")
    assert torch.equal(parameters(PPO.load(tmp_path / "combined", device="cpu")), parameters(model))


def test_other_settings_after_a_load(tmp_path: Path) -> None:
    """A gate that was, a rule that is: what still fits goes on."""
    model = build("discrete", **RESUMED["lag"]).learn(STEPS * AGENTS)
    model.save(tmp_path / "model")
    sent = model.ledger.messages
    load = {"env": cartpoles(AGENTS), "device": "cpu"}
    plain = AggPPO.load(tmp_path / "model", **load, aggregation="mean", communication="every", communication_kwargs=None)
    assert plain.exchange.weights_only
    assert plain.learn(STEPS * AGENTS, reset_num_timesteps=False).ledger.messages == sent + 8 * AGENTS
    krum = AggPPO.load(tmp_path / "model", **load, aggregation="krum")
    assert krum.learn(STEPS * AGENTS, reset_num_timesteps=False).ledger.messages > sent


@pytest.mark.parametrize("num_agents", [4, 10])
def test_more_and_fewer_agents_after_a_load(num_agents: int, tmp_path: Path) -> None:
    model = build("discrete", **RESUMED["lag"]).learn(STEPS * AGENTS)
    model.save(tmp_path / "model")
    loaded = AggPPO.load(tmp_path / "model", env=cartpoles(num_agents), device="cpu")
    known = min(num_agents, AGENTS)
    np.testing.assert_array_equal(loaded.ledger.messages_per_agent[:known], model.ledger.messages_per_agent[:known])
    loaded.learn(STEPS * num_agents, reset_num_timesteps=False)
    assert (loaded.ledger.messages_per_agent[known:] > 0).all()
    assert loaded.exchange.state_dict()["uplink"]["last"].shape == (num_agents, 9155)


# The ledger in the log ------------------------------------------------------------------------------------------------------

SMALL_POLICY = 2 * ((4 * 64 + 64) + (64 * 64 + 64)) + (64 * 2 + 2) + (64 * 1 + 1)  # two towers, action and value heads


@pytest.mark.parametrize(
    ("settings", "scalars"),
    [
        ({"aggregation": "mean"}, 0),
        ({"aggregation": "r_weighted"}, 1),
        ({"aggregation": "l_weighted"}, 1),
        ({"aggregation": "median"}, 0),
        ({"aggregation": "l_weighted", "communication": "lag", "communication_kwargs": {"xi": 0}}, 1),
    ],
)
def test_logged_messages_and_bytes(settings: dict[str, Any], scalars: int) -> None:
    """Two rollouts of 5 x 16 samples in minibatches of 20, twice over: 16 steps, and 5 agents send at each."""
    model = build("discrete", **settings).learn(2 * STEPS * AGENTS)
    log = model.logger.name_to_value
    assert SMALL_POLICY == 9155
    assert log["agg/messages"] == model.ledger.messages == 16 * 5
    assert log["agg/bytes"] == model.ledger.bytes == 16 * 5 * 4 * (SMALL_POLICY + scalars)
    assert log["agg/bytes_down"] == model.ledger.bytes_down == 16 * 5 * 4 * SMALL_POLICY
    assert model.ledger.physical_bytes == 0  # one process


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_an_update_that_ends_early_sends_no_more(aggregation: str) -> None:
    model, steps = build("discrete", aggregation=aggregation, target_kl=1e-6), []
    model.policy.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    model.learn(STEPS * AGENTS)
    assert 0 < len(steps) < 8
    assert model.ledger.messages == len(steps) * AGENTS
    assert model.ledger.bytes_down == 4 * SMALL_POLICY * len(steps) * AGENTS


@pytest.mark.filterwarnings("ignore:.*:RuntimeWarning")
def test_an_agent_without_a_usable_gradient_sends_nothing_where_one_backward_does() -> None:
    model = AggPPO("MlpPolicy", walks({"length": 4}, {"length": 4}), n_steps=16, batch_size=None, n_epochs=1, device="cpu")
    model.learn(32)
    assert model.ledger.messages_per_agent.tolist() == [1, 1]
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    model.rollout_buffer.log_probs[:, 1] = -200.0  # the ratio overflows
    model.train()
    assert model.ledger.messages_per_agent.tolist() == [2, 1]
