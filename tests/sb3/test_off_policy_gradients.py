"""Gradients of actor and critics against SB3's own ``train()`` for each agent."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rl_agg import COMBINERS, RULES, Signals, combine, weights
from rl_agg.combiners import make_combiner
from tests.sb3.replays import AGENTS, PAIRS, clipped, ours, record_update, separate

FIXED_NOISE = 0.5
ONE = {"num_byzantine": 1}
NEEDED: dict[str, dict[str, Any]] = {"trimmed_mean": ONE, "krum": ONE, "mixtailor": {"seed": 3}}
VECTOR_RULES = sorted(
    name for name, rule in RULES.items() if "gradients" in rule.payloads and rule.needs <= {"returns", "losses", "num_samples"}
)
FEW = [("dqn", "l_weighted"), ("sac", "r_weighted"), ("sac", "l_weighted"), ("tqc", "l_weighted"), ("td3", "samples")]


def all_but(few: list[tuple[str, str]], others: list[str]) -> list[Any]:
    """Every pair, of which those that are not among a few are slow."""
    pairs = [(name, other) for name in PAIRS for other in others]
    return [pair if pair in few else pytest.param(*pair, marks=pytest.mark.slow) for pair in pairs]


@pytest.fixture(autouse=True)
def fixed_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same noise for a sample, whichever others are in its minibatch."""
    monkeypatch.setattr(
        torch.distributions.Normal, "rsample", lambda self, *shape: self.loc + FIXED_NOISE * self.scale, raising=True
    )


def check(name: str, model: Any, merge: Any) -> None:
    """Compare one gradient step with what ``merge(gradients [A, P], losses [A], counts [A])`` makes of separate ones."""
    update = record_update(model)
    present = [agent for agent in range(AGENTS) if not update.masked[agent]]
    assert len(present) >= 4
    found = {agent: separate(name, update, agent) for agent in present}
    losses = np.array([found[agent][1] for agent in present])
    counts = np.array([(update.agents == agent).sum() for agent in present])
    for key, actual in update.gradients.items():
        expected = clipped(name, merge(torch.stack([found[agent][0][key] for agent in present]), losses, counts))
        error = (actual - expected).norm() / expected.norm()
        assert error < 1e-6, f"{key}: {error}"
        assert expected.norm() > 1e-4


def weigh(rule: str, model: Any, losses: np.ndarray, counts: np.ndarray, present: Any = slice(None)) -> torch.Tensor:
    returns = model.agent_returns[present]
    return weights(rule, Signals(returns=returns, losses=losses, num_samples=counts))


@pytest.mark.parametrize(("name", "rule"), all_but(FEW, VECTOR_RULES))
def test_a_rule_weighs_separate_gradients(name: str, rule: str) -> None:
    model = ours(name, aggregation=rule).learn(200)
    assert np.isfinite(model.agent_returns).all()
    check(name, model, lambda rows, losses, counts: (weigh(rule, model, losses, counts) @ rows.double()).float())
    assert model.ledger.messages > 0


@pytest.mark.parametrize(
    ("name", "rule"), all_but([("dqn", "r_weighted"), ("sac", "samples")], ["mean", "samples", "r_weighted"])
)
def test_in_stocks_order_an_agent_counts_by_its_part(name: str, rule: str) -> None:
    """So that ``mean`` is stock's; ``samples``, which goes by the parts, counts them once."""
    model = ours(name, aggregation=rule, minibatches="stock").learn(200)

    def merge(rows: torch.Tensor, losses: np.ndarray, counts: np.ndarray) -> torch.Tensor:
        assert np.ptp(counts) > 0
        own = weigh(rule, model, losses, counts)
        return ((own if rule == "samples" else own * torch.as_tensor(counts * AGENTS / counts.sum())) @ rows.double()).float()

    check(name, model, merge)


@pytest.mark.parametrize(
    ("name", "combiner"), all_but([("dqn", "median"), ("sac", "trimmed_mean"), ("tqc", "krum")], sorted(COMBINERS))
)
@pytest.mark.parametrize("minibatches", ["stratified", pytest.param("stock", marks=pytest.mark.slow)])
def test_a_combiner_sees_separate_gradients(name: str, combiner: str, minibatches: str) -> None:
    own = NEEDED.get(combiner, {})
    model = ours(name, aggregation=combiner, aggregation_kwargs=own, minibatches=minibatches).learn(200)
    (step,) = {exchange.num_exchanges for exchange in model.exchanges.values()}
    everyone = torch.ones(AGENTS, dtype=torch.bool)
    check(name, model, lambda rows, *_: make_combiner(combiner, own).at(step)(rows, present=everyone, step=step))


@pytest.mark.parametrize(("name", "rule"), all_but([("sac", "l_weighted"), ("sac", "median")], ["l_weighted", "median"]))
def test_an_agent_with_a_nan_is_left_out(name: str, rule: str) -> None:
    model = ours(name, aggregation=rule, learning_starts=1000).learn(200)
    model.replay_buffer.rewards[:, 2] = np.nan
    others = [0, 1, 3, 4]

    def merge(rows: torch.Tensor, losses: np.ndarray, counts: np.ndarray) -> torch.Tensor:
        if rule == "median":
            return combine(rule, rows)
        return (weigh(rule, model, losses, counts, others) @ rows.double()).float()

    with pytest.warns(UserWarning, match="agents had a NaN"):
        check(name, model, merge)
    model.record_agents()
    assert model.logger.name_to_value["agg/masked_agents"] == 1


@pytest.mark.parametrize("name", ["dqn", *[pytest.param(name, marks=pytest.mark.slow) for name in PAIRS if name != "dqn"]])
def test_the_agents_losses_average_to_the_loss_sb3_logs(name: str) -> None:
    seen = []

    def spy(signals: Signals) -> torch.Tensor:
        seen.append(signals.losses)
        return torch.ones(AGENTS)

    model = ours(name, aggregation=spy).learn(200)
    logged = model.logger.name_to_value["train/loss" if "dqn" in name else "train/critic_loss"]
    assert seen[-1].mean().item() == pytest.approx(logged, rel=1e-5)
