"""A gate, a codec, a rule and a combiner that a user registers work by name in both hosts and in a study.

A agents send 4 bytes a number in stock form; here every other agent sends one byte a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from ray import cloudpickle
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor

from rl_agg.study.analysis.store import Store
from rl_agg.study.run.engine import run_study
from rl_agg.study.spec.loading import load_study
from rllib_agg import AggPPOConfig
from sb3_agg import AggPPO
from tests.study import own_members
from tests.study.own_members import register_members

AGENTS = 4
MODULE = "default_policy"
OWN = {"communication": "every_other", "communication_kwargs": {"first": 1}, "compression": "bytes"}
RULES: dict[str, dict[str, Any]] = {
    "rising": {"aggregation": "rising", "aggregation_kwargs": {"slope": 0.5}},
    "extreme": {"aggregation": "extreme"},
}


SB3 = {"n_steps": 32, "batch_size": 64, "n_epochs": 2}
RLLIB = {"train_batch_size_per_learner": 128, "minibatch_size": 64, "num_epochs": 1}
SPEC: dict[str, Any] = {
    "name": "own members",
    "baseline": "sb3",
    "systems": {
        "sb3": {"system": "sb3_agg:AggPPO", "settings": SB3},
        "sb3_own": {"system": "sb3_agg:AggPPO", "settings": {**SB3, **OWN, **RULES["rising"]}},
        "rllib": {"system": "rllib_agg:AggPPO", "settings": RLLIB},
        "rllib_own": {"system": "rllib_agg:AggPPO", "settings": {**RLLIB, **OWN, **RULES["extreme"]}},
    },
    "environments": {"CartPole-v1": {"num_agents": AGENTS, "network": "small"}},
    "seeds": 1,
    "budget": {"updates": 2},
}


@pytest.fixture
def members() -> Iterator[None]:
    """Registered, and known to processes that cannot import them."""
    cloudpickle.register_pickle_by_value(own_members)
    register_members()
    yield
    cloudpickle.unregister_pickle_by_value(own_members)


def merged(rule: str, gradients: Tensor) -> Tensor:
    """What the members make of gradients ``[A, P]`` in the first exchange, written out."""
    decoded = (gradients[1::2] * 1024).round() / 1024  # of agents 1 and 3
    if rule == "rising":
        return 0.5 * decoded[0] + 1.0 * decoded[1]
    first, second = decoded
    return torch.where(second.abs() > first.abs(), second, first)


@pytest.mark.parametrize("rule", RULES)
def test_under_sb3(rule: str, members: None) -> None:
    env = make_vec_env("CartPole-v1", AGENTS, seed=0)
    settings = {"n_steps": 32, "batch_size": None, "n_epochs": 1, "max_grad_norm": 1e9, "device": "cpu"}
    model = AggPPO("MlpPolicy", env, **settings, seed=0, **OWN, **RULES[rule])
    seen = gradients_given_to(model.exchange)
    model.learn(32 * AGENTS)
    (gradients,) = seen
    actual = torch.cat([parameter.grad.flatten() for parameter in model.policy.parameters()])
    torch.testing.assert_close(actual, merged(rule, gradients), rtol=1e-4, atol=1e-6)
    check_ledger(model.logger.name_to_value, exchanges=1, size=gradients.shape[1], prefix="agg/")


@pytest.mark.parametrize("rule", RULES)
def test_under_rllib(rule: str, members: None, ray_session: None) -> None:
    with built(rule, num_learners=0) as algorithm:
        learner = algorithm.learner_group._learner
        seen = gradients_given_to(learner.aggregator(MODULE).exchange)
        result = algorithm.train()
        (gradients,) = seen
        actual = torch.cat([parameter.grad.flatten() for parameter in learner.module[MODULE].parameters()])
        torch.testing.assert_close(actual, merged(rule, gradients), rtol=1e-4, atol=1e-6)
    check_ledger(result["learners"][MODULE]["agg"], exchanges=1, size=gradients.shape[1])


@pytest.mark.slow
def test_on_remote_learners_of_rllib(members: None, ray_session: None) -> None:
    with built("rising", num_learners=2) as algorithm:
        for _ in range(2):
            result = algorithm.train()
        described = algorithm.learner_group.foreach_learner(
            lambda learner: (
                learner.aggregator(MODULE).exchange.scheme.described,
                sum(parameter.numel() for parameter in learner.module[MODULE].parameters()),
            )
        )
        (first, size), other = (found.get() for found in described)
    assert (first, size) == other
    assert (first["gate"], first["codec"]) == ("every_other", "bytes")
    check_ledger(result["learners"][MODULE]["agg"], exchanges=2, size=size)


def test_in_a_study(members: None, ray_session: None, tmp_path: Path) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    study = load_study(tmp_path / "spec.yaml")
    assert run_study(study, tmp_path / "out", workers=1) == []
    store = Store(tmp_path / "out")
    records = {cell.system_name: store.read(cell) for cell in study.cells}
    totals = {name: record.updates.iloc[-1] for name, record in records.items() if record is not None}
    assert totals.keys() == SPEC["systems"].keys()
    for stock, own in (("sb3", "sb3_own"), ("rllib", "rllib_own")):
        assert totals[own]["agg/messages"] == totals[stock]["agg/messages"] / 2 > 0
        assert totals[own]["agg/bytes"] == totals[stock]["agg/bytes"] / 8
        assert totals[own]["agg/bytes_down"] == totals[stock]["agg/bytes_down"]


@contextmanager
def built(rule: str, num_learners: int) -> Iterator[Any]:
    """AggPPO under RLlib with the members, whose updates are one step each."""
    config = (
        AggPPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=AGENTS)
        .learners(num_learners=num_learners)
        .rl_module(model_config={"fcnet_hiddens": [8], "vf_share_layers": False})
        .training(train_batch_size_per_learner=128 // max(1, num_learners), minibatch_size=None, num_epochs=1)
        .training(**OWN, **RULES[rule])
        .debugging(seed=0)
    )
    algorithm = config.build_algo()
    try:
        yield algorithm
    finally:
        algorithm.stop()


def gradients_given_to(exchange: Any) -> list[Tensor]:
    """The gradients ``[A, P]`` of each step from now on."""
    seen: list[Tensor] = []
    step = exchange.step

    def noted(gradients: Any, *args: Any, **kwargs: Any) -> Any:
        rows = gradients if isinstance(gradients, Tensor) else gradients.matrix(by_parameter=False)
        seen.append(rows.clone())
        return step(gradients, *args, **kwargs)

    exchange.step = noted
    return seen


def check_ledger(logged: dict[str, Any], *, exchanges: int, size: int, prefix: str = "") -> None:
    """Half of the agents sent, a byte for each number."""
    assert logged[f"{prefix}messages"] == exchanges * AGENTS / 2
    assert logged[f"{prefix}bytes"] == exchanges * AGENTS / 2 * size
