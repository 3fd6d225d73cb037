"""Every combination of the axes trains, with a ledger that adds up, or is refused with both parts named."""

from __future__ import annotations

import itertools
import math
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from ray import cloudpickle
from torch import Tensor

from rl_agg import (
    GATES,
    Codec,
    Combiner,
    Signals,
    combine,
    register_codec,
    register_combiner,
    register_gate,
    register_rule,
)
from rl_agg.codecs import Encoded
from rl_agg.gates import Offer, VectorGate
from rllib_agg import AggAPPOConfig, AggIMPALAConfig
from tests.message_bits import BITS
from tests.rllib.groups import MODULE, on_each, start_group
from tests.rllib.ppo_configs import tiny_ppo
from tests.rllib.separate_gradients import spy_on

cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_AGENTS = 5
AGGREGATIONS = ("mean", "r_weighted", "krum", "median")
GATE_SETTINGS: dict[str, dict[str, Any]] = {
    "random": {"expected_messages": 2},
    "espc": {"expected_messages": 2},
    "deviation": {"expected_messages": 2},
}
THOROUGH = ("identity", "float16")
"""Codecs that are tried with every rule and interval; the others, with two of both."""
SCORE_GATES = ("espc", "deviation", "td_error")


@pytest.fixture(scope="module")
def learner(spaces: dict[str, Any]) -> Any:
    return tiny_ppo().build_learner(spaces=spaces)


def scheme(gate: str, codec: str, aggregation: str, payload: str, interval: int) -> dict[str, Any]:
    return {
        "aggregation": aggregation,
        "communication": gate,
        "communication_kwargs": GATE_SETTINGS.get(gate, {}),
        "compression": codec,
        "payload": payload,
        "interval": interval,
    }


def choices_with(codec: str) -> list[tuple[str, int]]:
    return list(itertools.product(AGGREGATIONS, (1, 2))) if codec in THOROUGH else [("r_weighted", 2), ("krum", 1)]


@pytest.mark.parametrize("codec", BITS)
@pytest.mark.parametrize("gate", sorted(GATES))
def test_every_scheme_of_gradients_trains_or_is_refused(
    gate: str, codec: str, learner: Any, sample: Callable[[], list[Any]]
) -> None:
    for aggregation, interval in choices_with(codec):
        config = tiny_ppo(**scheme(gate, codec, aggregation, "gradients", interval))
        if gate in (*SCORE_GATES, "gain"):
            with pytest.raises(ValueError, match=rf"gate '{gate}'.*payload 'gradients'"):
                config.validate()
            continue
        config.validate()
        learner.config = config
        learner.aggregators.clear()
        result = learner.update(episodes=sample(), num_epochs=4, timesteps={})[MODULE]["agg"]
        logged = {name: float(stats.peek()) for name, stats in result.items()}
        parameters = list(learner.module[MODULE].parameters())
        assert all(bool(own.isfinite().all()) for own in parameters)
        assert logged["masked_agents"] == logged["skipped_updates"] == 0
        check_ledger(logged, sum(own.numel() for own in parameters), codec, aggregation, num_exchanges=4 // interval)
        if gate == "every":
            assert logged["messages"] == 4 // interval * NUM_AGENTS


def check_ledger(logged: dict[str, float], size: int, codec: str, aggregation: str, num_exchanges: int) -> None:
    num_scalars = int(aggregation == "r_weighted")
    a_message = math.ceil(BITS[codec](size) / 8) + 4 * num_scalars
    assert 0 < logged["messages"] <= num_exchanges * NUM_AGENTS
    assert logged["bytes"] == logged["messages"] * a_message
    assert logged["bytes_down"] == num_exchanges * NUM_AGENTS * 4 * size


@pytest.mark.parametrize("codec", BITS)
@pytest.mark.parametrize("gate", sorted(GATES))
def test_every_scheme_of_parameters_is_built_or_refused(gate: str, codec: str) -> None:
    for aggregation, interval in choices_with(codec):
        config = tiny_ppo(**scheme(gate, codec, aggregation, "parameters", interval)).learners(num_learners=5)
        if gate in (*SCORE_GATES, "gain"):
            with pytest.raises(ValueError, match=rf"gate '{gate}'.*payload 'parameters'"):
                config.validate()
        else:
            config.validate()
            assert config.make_exchange().num_agents == 5


@pytest.mark.parametrize("config_class", [AggIMPALAConfig, AggAPPOConfig])
def test_asynchronous_learners_take_gates_and_codecs_but_no_parameters(config_class: type) -> None:
    config = config_class().environment("CartPole-v1").training(communication="lag", compression="float16", interval=2)
    config.training(broadcast_compression="sign", budget_bytes_per_update=1_000).validate()
    with pytest.raises(ValueError, match="payload 'parameters' merges learners between updates"):
        config.training(payload="parameters").validate()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"aggregation": "ranks", "payload": "scores"}, "payload 'scores' exchanges scores, which AggPPOConfig does not have"),
        ({"compression": "float61"}, r"unknown compression 'float61' \(did you mean 'float16'"),
        ({"compression_kwargs": {"error_feedback": True}}, "codec 'identity' is lossless"),
        ({"interval": 0}, "interval must be an integer >= 1, got 0"),
        ({"interval": "on_arrival"}, "schedule 'on_arrival' exchanges with one agent at a time, but AggPPOConfig's"),
        ({"aggregation": "fedavg", "payload": "scores"}, "exchanges Parameters.*, but payload='scores' was given"),
    ],
)
def test_bad_schemes(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        tiny_ppo(**settings).validate()


@pytest.mark.parametrize("aggregation", ["mean", "median"])
def test_two_steps_of_gradients_are_averaged(
    aggregation: str, spaces: dict[str, Any], sample: Callable[[], list[Any]]
) -> None:
    """With one optimiser step in two updates, and parameters that stay as they are."""

    def scaled(factor: float) -> list[Any]:
        episodes = sample()
        for episode in episodes:
            episode.rewards.data[:] *= factor
        return episodes

    config = tiny_ppo(aggregation=aggregation, advantage_norm="none", use_kl_loss=False, lr=0.0)
    unchanged = {"kind": "scale", "agents": [0]}  # by 1, so that the exchange sees the gradients of each step
    one = config.copy().training(attack=unchanged).build_learner(spaces=spaces)
    two = config.copy().training(interval=2).build_learner(spaces=spaces)
    two.module.set_state(one.module.get_state())
    exchange = one.aggregator(MODULE).exchange
    spy_on(exchange)
    ((_, optimizer),) = two.optimizers()
    taken: list[Tensor] = []
    optimizer.register_step_pre_hook(
        lambda *_: taken.append(torch.cat([own.grad.flatten() for own in two.module[MODULE].parameters()]))
    )
    matrices = []
    for factor in (1.0, 2.0):
        one.update(episodes=scaled(factor), timesteps={})
        matrices.append(exchange.seen[0])
        logged = two.update(episodes=scaled(factor), timesteps={})[MODULE]["agg"]
        assert logged["skipped_updates"].peek() == logged["masked_agents"].peek() == 0
    mean = (matrices[0] + matrices[1]) / 2
    (actual,) = taken
    torch.testing.assert_close(
        actual, mean.mean(0) if aggregation == "mean" else combine("median", mean), rtol=1e-4, atol=1e-6
    )
    assert logged["messages"].peek() == NUM_AGENTS


class Odd(VectorGate):
    """Lets agents with odd numbers send."""

    def decide(self, offer: Offer) -> Tensor:
        return torch.arange(len(offer.present), device=offer.present.device) % 2 == 1


class Halved(Codec):
    """Sends half of every number, in 7 bits."""

    def __call__(self, rows: Tensor) -> Encoded:
        return Encoded(rows / 2, torch.full((len(rows),), 7 * rows.shape[1]))


class First(Combiner):
    """The first agent's."""

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        return gradients[0]


def by_number(signals: Signals) -> Tensor:
    """Later agents count more."""
    return torch.arange(1.0, signals.num_agents + 1)


@pytest.fixture
def members() -> None:
    """Members of the axes that no other process knows."""
    register_gate("odd", Odd)
    register_codec("halved", Halved)
    register_combiner("first_one", First)
    register_rule("by_number", by_number, needs=())


@pytest.mark.parametrize("aggregation", ["first_one", pytest.param("by_number", marks=pytest.mark.slow)])
@pytest.mark.remote
def test_registered_members_reach_remote_learners(
    aggregation: str, members: None, spaces: dict[str, Any], sample: Callable[[], list[Any]]
) -> None:
    settings = {"aggregation": aggregation, "communication": "odd", "compression": "halved"}
    group = start_group(spaces, 2, **settings)
    try:
        results = group.update(episodes=sample(), num_epochs=1, minibatch_size=None, timesteps={})
        exchanges = on_each(group, lambda learner: learner.aggregator(MODULE).exchange.scheme.described)
    finally:
        group.shutdown()
    choices = [[described[axis] for axis in ("gate", "codec", "rule", "payload", "schedule")] for described in exchanges]
    assert choices == [["odd", "halved", aggregation, "gradients", "every_step"]] * 2
    assert results[0][MODULE]["agg"]["messages"].peek() == 2  # agents 1 and 3


def test_registered_members_travel_with_a_config_as_a_dict(members: None) -> None:
    """As Ray Tune sends it to a trial, and as a checkpoint holds it. Members that are not named stay."""
    config = tiny_ppo(aggregation="mixtailor", aggregation_kwargs={"combiners": ["first_one", "median"]})
    states = [cloudpickle.dumps(state) for state in (config.to_dict(), config.get_state(), config, config.copy())]
    code = """if True:
        import pickle, sys
        from rl_agg import COMBINERS, registered

        for state in pickle.load(sys.stdin.buffer):
            pickle.loads(state)
            print({axis: list(own) for axis, own in registered().items()})
            del COMBINERS["first_one"]
            COMBINERS.added.clear()
        """
    found = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(states), capture_output=True, check=True)
    assert found.stdout.decode().splitlines()[-4:] == ["{'combiner': ['first_one']}"] * 4
    assert "registered_members" not in vars(pickle.loads(cloudpickle.dumps(config)))
    assert tiny_ppo().update_from_dict({**config.to_dict()}).aggregation == "mixtailor"
