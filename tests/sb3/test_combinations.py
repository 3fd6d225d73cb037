"""Every class of combination of the five axes: it trains, or is refused with both names. Axes: A agents, P parameters."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from stable_baselines3.common.vec_env import VecEnv

from rl_agg import CODECS, GATES, PAYLOADS, Scheme
from sb3_agg import AggPPO
from tests.message_bits import BITS
from tests.sb3.worlds import cartpoles

AGENTS, STEPS = 5, 8
RULES = ("mean", "samples", "r_weighted", "l_weighted", "reward_shares", "median", "krum", "ranks")
GATE_KWARGS: dict[str, dict[str, Any]] = {
    "random": {"expected_messages": 3},
    "espc": {"expected_messages": 3},
    "deviation": {"expected_messages": 3},
}
PLAIN: dict[str, Any] = {
    "n_steps": STEPS,
    "n_epochs": 1,
    "max_grad_norm": 1e9,
    "policy_kwargs": {"net_arch": [4], "optimizer_class": torch.optim.SGD},
    "seed": 0,
    "device": "cpu",
}
"""Plain gradient descent."""
THOROUGH = ("identity", "float16")
"""Codecs that are tried with every rule and interval; the others, with those of :data:`SOME`."""
SOME = (("mean", 1), ("r_weighted", 2), ("krum", 1))


@pytest.fixture(scope="module")
def env() -> VecEnv:
    return cartpoles(AGENTS)


def build(env: VecEnv, gate: str, codec: str, rule: str, payload: str, interval: int) -> AggPPO:
    return AggPPO(
        "MlpPolicy",
        env,
        n_steps=STEPS,
        batch_size=AGENTS * STEPS // 2,
        n_epochs=2,
        policy_kwargs={"net_arch": [4]},
        seed=0,
        device="cpu",
        aggregation=rule,
        communication=gate,
        communication_kwargs=GATE_KWARGS.get(gate),
        compression=codec,
        payload=payload,
        interval=interval,
    )


def works(gate: str, rule: str, payload: str, interval: int) -> bool:
    """What is expected to train, pair by pair."""
    return (
        payload not in ("scores", "transitions")
        and gate in ("every", "random", "lag")
        and rule != "ranks"
        and not (payload == "gradients_with_own" and (rule != "mean" or interval != 1))
    )


@pytest.mark.parametrize("payload", sorted(PAYLOADS))
@pytest.mark.parametrize("gate", sorted(GATES))
def test_a_combination_trains_or_is_refused(gate: str, payload: str, env: VecEnv) -> None:
    assert CODECS.keys() - CODECS.added.keys() == BITS.keys()
    for codec, rule, interval in itertools.product(BITS, RULES, (1, 2)):
        if codec not in THOROUGH and (rule, interval) not in SOME:
            continue
        combination = (gate, codec, rule, payload, interval)
        if not works(gate, rule, payload, interval):
            with pytest.raises(ValueError, match="payload") as refusal:
                build(env, *combination)
            named = [name for name in (gate, codec, rule, payload, "interval") if f"'{name}'" in str(refusal.value)]
            assert len(named) >= 2 or f"payload={payload!r}" in str(refusal.value), (combination, str(refusal.value))
            continue
        model = build(env, *combination).learn(2 * AGENTS * STEPS)
        parameters = [parameter for parameter in model.policy.parameters() if parameter.requires_grad]
        assert all(bool(parameter.isfinite().all()) for parameter in parameters), combination
        size = sum(parameter.numel() for parameter in parameters)
        steps = 2 if payload.startswith("parameter") else 2 * 2 * 2  # updates, or epochs with two minibatches each
        exchanges, ledger = steps // interval, model.ledger
        signals = len(Scheme(rule=rule).needs)
        assert ledger.bytes == ledger.messages * (math.ceil(BITS[codec](size) / 8) + 4 * signals), combination
        assert ledger.bytes_down == exchanges * AGENTS * 4 * size, combination
        assert ledger.messages <= exchanges * AGENTS, combination
        if gate == "every":
            assert ledger.messages_per_agent.tolist() == [exchanges] * AGENTS, combination


def test_a_schedule_of_asynchronous_algorithms_is_refused(env: VecEnv) -> None:
    from rl_agg.schedules import OnArrival

    with pytest.raises(ValueError, match=r"interval=OnArrival\(\) is for asynchronous algorithms; AggPPO is not one"):
        AggPPO("MlpPolicy", env, interval=OnArrival())


def test_gradients_every_second_step_are_the_mean_of_two(env: VecEnv) -> None:
    """One plain SGD step with the mean of both minibatches' gradients is one step over their union."""
    halves = AggPPO("MlpPolicy", env, batch_size=AGENTS * STEPS // 2, interval=2, **PLAIN).learn(AGENTS * STEPS)
    whole = AggPPO("MlpPolicy", env, batch_size=None, **PLAIN).learn(AGENTS * STEPS)
    for one, other in zip(halves.policy.parameters(), whole.policy.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_one_plain_step_makes_parameters_the_mean_of_gradients(env: VecEnv) -> None:
    models = [
        AggPPO("MlpPolicy", env, payload=payload, batch_size=None, **PLAIN).learn(AGENTS * STEPS)
        for payload in ("gradients", "parameters")
    ]
    for one, other in zip(*(model.policy.parameters() for model in models), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_lag_that_holds_nothing_back_is_fedavg_to_the_bit(env: VecEnv) -> None:
    settings = {"n_steps": STEPS, "batch_size": 20, "aggregation": "fedavg", "interval": 2, "seed": 0, "device": "cpu"}
    plain = AggPPO("MlpPolicy", env, **settings).learn(4 * AGENTS * STEPS)
    lag = {"communication": "lag", "communication_kwargs": {"xi": 0.0}}
    gated = AggPPO("MlpPolicy", env, **settings, **lag).learn(4 * AGENTS * STEPS)
    assert all(
        torch.equal(one, other) for one, other in zip(plain.policy.parameters(), gated.policy.parameters(), strict=True)
    )
    assert plain.ledger.state_dict() == gated.ledger.state_dict()


def test_reward_shares_of_some_layers_are_a_setting(env: VecEnv) -> None:
    """RS-PPS and PP-PPS under SB3."""
    pps = {"aggregation": "pp_pps", "aggregation_kwargs": {"layers": ("action_net",)}, "interval": 2}
    model = AggPPO("MlpPolicy", env, n_steps=STEPS, batch_size=20, seed=0, device="cpu", **pps).learn(2 * AGENTS * STEPS)
    size = sum(parameter.numel() for parameter in model.policy.action_net.parameters())
    assert model.ledger.bytes == AGENTS * 4 * (size + 1)
    with pytest.raises(ValueError, match="unknown layer 'head'; choose from action_net, mlp_extractor, value_net"):
        AggPPO("MlpPolicy", env, aggregation="pp_pps", batch_size=20)
