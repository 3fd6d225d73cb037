"""Agents act by, and differentiate at, what they decode of the learner's parameters. Axis P: parameters."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ray import cloudpickle
from torch import Tensor

from rl_agg.codecs import Draws, make_codec
from rllib_agg import A3CConfig, AggPPO
from tests.rllib.groups import MODULE, UPDATE, on_each, start_group
from tests.rllib.ppo_configs import TINY, tiny_ppo
from tests.rllib.results import agg
from tests.sb3.flattened import flat

cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_AGENTS = 5
TOP_K: dict[str, Any] = {"broadcast_compression": "top_k", "broadcast_compression_kwargs": {"fraction": 0.1}}
RANDOM_K: dict[str, Any] = {"broadcast_compression": "random_k", "broadcast_compression_kwargs": {"fraction": 0.1}}
QUANTIZE: dict[str, Any] = {"broadcast_compression": "quantize", "broadcast_compression_kwargs": {"levels": 3}}


def decoded_by_hand(settings: dict[str, Any], difference: Tensor, num_sent: int, agent: int = 0) -> tuple[Tensor, int]:
    codec = make_codec(settings["broadcast_compression"], settings["broadcast_compression_kwargs"])
    draws = Draws(0, num_sent, np.array([agent]), unbiased=False, purpose="broadcast")
    encoded = codec.at(draws)(difference[None])
    return encoded.decoded[0], math.ceil(int(encoded.bits[0]) / 8)


def held_by(learner: Any) -> Tensor:
    return flat(learner.module[MODULE].unwrapped())


@pytest.mark.parametrize("closed_form", [False, True], ids=["graph", "closed_form"])
@pytest.mark.parametrize("aggregation", ["r_weighted", "median"])
@pytest.mark.parametrize("settings", [RANDOM_K, QUANTIZE], ids=["random_k", "quantize"])
def test_the_module_holds_what_agents_decoded(
    settings: dict[str, Any],
    aggregation: str,
    closed_form: bool,
    spaces: dict[str, Any],
    sample: Callable[[], list[Any]],
) -> None:
    """Adam by torch, stepping with the gradients that were seen, and the recursion of the broadcast, written out."""
    config = tiny_ppo(aggregation=aggregation, closed_form=closed_form, **settings)
    config.validate()
    learner = config.build_learner(spaces=spaces)
    (_, optimizer), *_ = learner.optimizers()
    module = learner.module[MODULE].unwrapped()
    seen: list[Tensor] = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(torch.cat([own.grad.flatten() for own in module.parameters()])))
    held = held_by(learner)
    twin = torch.nn.Parameter(held.clone())
    adam = torch.optim.Adam([twin], lr=0.01, eps=optimizer.param_groups[0]["eps"])
    num_bytes = 0
    for _ in range(2):
        result = learner.update(episodes=sample(), num_epochs=3, timesteps={})
    assert (learner.why_no_closed_form is None) == closed_form
    assert len(seen) == 6
    for step, gradient in enumerate(seen):
        twin.grad = gradient
        adam.step()
        decoded, size = decoded_by_hand(settings, twin.detach() - held, step)
        held, num_bytes = held + decoded, num_bytes + size
    torch.testing.assert_close(held_by(learner), held, rtol=0, atol=1e-5)
    assert (twin - held).norm() > 1e-3
    assert result[MODULE]["agg"]["bytes_down"].peek() == NUM_AGENTS * num_bytes


def test_identity_is_none_to_the_bit(spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    found = []
    for settings in ({}, {"broadcast_compression": "identity"}):
        learner = tiny_ppo(aggregation="l_weighted", **settings).build_learner(spaces=spaces)
        learner.update(episodes=sample(), num_epochs=3, timesteps={})
        found.append((held_by(learner), learner.aggregator(MODULE).exchange.ledger.state_dict()))
    assert torch.equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]


@pytest.mark.remote
def test_two_learners_hold_the_same(spaces: dict[str, Any], sample: Callable[[], list[Any]]) -> None:
    """To the bit; and what one learner holds, up to rounding."""
    settings = {"aggregation": "r_weighted", "broadcast_compression": "random_k", "advantage_norm": "none"}
    found = []
    for num_learners in (0, 2):
        group = start_group(spaces, num_learners, **settings)
        for _ in range(2):
            group.update(episodes=sample(), **UPDATE)
        found.append(on_each(group, held_by))
        group.shutdown()
    (one,), (first, second) = found
    assert torch.equal(first, second)
    torch.testing.assert_close(first, one, rtol=1e-4, atol=1e-5)


@pytest.mark.remote
def test_learners_with_parameters_of_their_own_start_from_what_they_decoded(
    spaces: dict[str, Any], sample: Callable[[], list[Any]]
) -> None:
    group = start_group(spaces, 2, aggregation="fedavg", **TOP_K)
    before = on_each(group, held_by)[0]
    result = group.update(episodes=sample(), num_epochs=2, minibatch_size=None, timesteps={})
    first, second = on_each(group, held_by)
    assert torch.equal(first, second)
    size = len(first)
    number = round(0.1 * size)
    assert 0 < int((first != before).sum()) <= number
    a_message = math.ceil((32 * number + min(number * (size - 1).bit_length(), size)) / 8)
    buffers = on_each(group, lambda learner: sum(own.numel() for own in learner.module[MODULE].unwrapped().buffers()))[0]
    assert result[0][MODULE]["agg"]["bytes_down"].peek() == 2 * (a_message + 4 * buffers)
    group.shutdown()


def test_a_restored_run_is_the_run_that_was_saved(tmp_path: Path, sample: Callable[[], list[Any]], ray_session: None) -> None:
    settings = {"compression": "top_k", "budget_bytes_per_update": 3_000, "num_epochs": 3, **QUANTIZE}
    config = tiny_ppo(**settings)
    one = config.build_algo()
    one.train()
    path = one.save_to_path(tmp_path / "checkpoint")
    other = AggPPO.from_checkpoint(str(path))
    results = []
    for algorithm in (one, other):
        learner = algorithm.local_learner
        assert learner.aggregator(MODULE).exchange.state_dict()["downlink"]["lost"].any()
        for _ in range(2):
            result = learner.update(episodes=sample(), num_epochs=2, timesteps={})
        results.append((held_by(learner), learner.aggregator(MODULE).exchange))
        assert result[MODULE]["agg"]["fraction"].peek() == results[-1][1].followed["fraction"] != 0.01
        algorithm.stop()
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1].ledger.state_dict() == results[1][1].ledger.state_dict()


@pytest.mark.parametrize(
    ("settings", "key", "part"),
    [
        pytest.param({"compression": "top_k", "compression_kwargs": {"fraction": 1.0}}, "fraction", 0.1, id="top_k"),
        pytest.param(
            *({"communication": "lag", "communication_kwargs": {"xi": 1e-3}}, "xi", 0.5), id="lag", marks=pytest.mark.slow
        ),
    ],
)
def test_bytes_come_to_the_budget(
    settings: dict[str, Any], key: str, part: float, spaces: dict[str, Any], sample: Callable[[], list[Any]]
) -> None:
    learner = tiny_ppo(**settings).build_learner(spaces=spaces)
    whole = 4 * len(held_by(learner)) * NUM_AGENTS * 4
    config = tiny_ppo(budget_bytes_per_update=part * whole, **settings)
    config.validate()
    learner = config.build_learner(spaces=spaces)
    sent = []
    for _ in range(80):
        result = learner.update(episodes=sample(), num_epochs=4, timesteps={})[MODULE]["agg"]
        sent.append(result["bytes"].peek())
    assert (sent[-1] - sent[39]) / 40 == pytest.approx(part * whole, rel=0.1)
    assert result[key].peek() != settings[f"{'compression' if key == 'fraction' else 'communication'}_kwargs"][key]


def tiny_a3c(num_env_runners: int = 0, **training: Any) -> A3CConfig:
    config = A3CConfig().environment("CartPole-v1").rl_module(model_config=TINY).debugging(seed=0)
    config.env_runners(num_env_runners=num_env_runners, rollout_fragment_length=10)
    return config.training(gradients_per_iteration=4, **training)


def test_a3c_runners_compute_gradients_at_what_they_hold(ray_session: None, tmp_path: Path) -> None:
    """The first answer is whole; each later one, the encoded difference to the learner's parameters of that moment."""
    algorithm = tiny_a3c(**QUANTIZE).build_algo()
    answers, sample_gradient = [], algorithm.env_runner.sample_gradient

    def noted(*args: Any) -> Any:
        made = sample_gradient(*args)
        answers.append((flat(algorithm.learner.module[MODULE]), flat(algorithm.env_runner.module)))
        return made

    algorithm.env_runner.sample_gradient = noted
    logged = agg(algorithm.train())
    (start, held), *others = answers
    assert torch.equal(start, held)
    num_bytes = 4 * len(held)
    for num_sent, (learner, runner) in enumerate(others):
        decoded, size = decoded_by_hand(QUANTIZE, learner - held, num_sent)
        held, num_bytes = held + decoded, num_bytes + size
        torch.testing.assert_close(runner, held, rtol=0, atol=1e-6)
        assert not torch.equal(runner, learner)
    assert logged["bytes_down"] == num_bytes
    state = algorithm.get_state()["aggregation"]["exchange"]
    torch.testing.assert_close(state["held"][0], held, rtol=0, atol=1e-6)
    other = tiny_a3c(**QUANTIZE).build_algo()
    other.restore_from_path(algorithm.save_to_path(tmp_path / "checkpoint"))
    torch.testing.assert_close(other.exchange.state_dict()["held"], state["held"], rtol=0, atol=0)
    algorithm.stop()
    other.stop()


@pytest.mark.remote
def test_a3c_answers_each_runner_from_what_it_holds(ray_session: None) -> None:
    algorithm = tiny_a3c(2, **TOP_K).build_algo()
    for _ in range(3):
        logged = agg(algorithm.train())
    held = algorithm.exchange.state_dict()["held"]
    assert not torch.equal(held[0], held[1])
    size = held.shape[1]
    number = round(0.1 * size)
    a_message = math.ceil((32 * number + min(number * (size - 1).bit_length(), size)) / 8)
    assert (logged["bytes_down"] - 2 * 4 * size) % a_message == 0
    assert 0 < logged["bytes_down"] < logged["bytes"]
    algorithm.stop()


def test_a3c_follows_a_budget(ray_session: None) -> None:
    algorithm = tiny_a3c(communication="lag", budget_bytes_per_update=150).build_algo()
    logged = agg(algorithm.train())
    assert logged["xi"] == algorithm.exchange.followed["xi"] != 0.1
    algorithm.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"broadcast_compression": "top_g"}, r"unknown compression 'top_g' \(did you mean 'top_k'"),
        ({"budget_bytes_per_update": 100}, "has nothing to be kept by: codec 'identity' and gate 'every'"),
        (
            {"budget_bytes_per_update": -1, "communication": "lag"},
            "budget_bytes_per_update must be a finite number > 0, got -1",
        ),
        (
            {"broadcast_compression": "sign", "broadcast_compression_kwargs": {"error_feedback": True}},
            "broadcast_compression has error feedback in any case",
        ),
        ({"sharing_broadcast_compression": "sign"}, "exchanges nothing, but sharing_broadcast_compression='sign' was given"),
        ({"sharing_budget_bytes_per_update": 9}, "exchanges nothing, but sharing_budget_bytes_per_update=9 was given"),
    ],
)
def test_refused_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_ppo(**settings).validate()
