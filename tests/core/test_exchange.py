"""From the agents' gradients to the one that is stepped with."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from rl_agg import COMBINERS, Combiner, Exchange, Scheme, Signals, Weighting, weights
from rl_agg.attacks import Attack
from rl_agg.combiners import make_combiner
from rl_agg.schedules import EveryStep
from rl_agg.scheme import make_rule, make_scheme
from rl_agg.uplink import Uplink
from tests.core.gradients import normal

AGENTS, PARAMETERS = 6, 20
COMBINED = sorted(COMBINERS)
REPORTED = torch.tensor([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
WEIGHED = ["l_weighted", "mean", "r_weighted", "reward_shares", "samples", "sum"]


def reported(present: list[bool] | None = None) -> Signals:
    return Signals(returns=REPORTED, losses=REPORTED + 1, num_samples=REPORTED, present=present or [True] * AGENTS)


def exchange(name: str, kwargs: dict[str, Any] | None = None, lag: dict[str, Any] | None = None, **settings: Any) -> Exchange:
    gate = {} if lag is None else {"gate": "lag", "gate_kwargs": lag}
    return Exchange(Scheme(rule=name, rule_kwargs=kwargs or {}, **gate), AGENTS, **settings)


@pytest.mark.parametrize("name", WEIGHED)
def test_a_rule_weighs(name: str) -> None:
    gradients = normal(AGENTS, PARAMETERS)
    merged = exchange(name).merge(gradients, reported())
    expected = weights(name, reported())
    assert merged.weights is not None
    torch.testing.assert_close(merged.weights.double(), expected.double())
    by_hand = sum(w * g for w, g in zip(expected.tolist(), gradients.numpy(), strict=True))
    np.testing.assert_allclose(merged.vector, by_hand, rtol=1e-5, atol=1e-6)
    assert merged.sends.all()
    assert merged.present.all()


@pytest.mark.parametrize("name", COMBINED)
def test_a_combiner_combines_and_knows_the_step(name: str) -> None:
    one, combiner = exchange(name), make_combiner(name, {})
    for step in range(5):
        gradients = normal(AGENTS, PARAMETERS, seed=step)
        merged = one.merge(gradients, reported())
        assert torch.equal(merged.vector, combiner(gradients, step=step))
        assert merged.weights is None


@pytest.mark.parametrize("gate", [None, {}])
@pytest.mark.parametrize("name", ["mean", "r_weighted", *COMBINED])
def test_what_is_not_finite_is_masked(name: str, gate: Any) -> None:
    """Agent 1 sends NaN, agent 2 infinity; agent 4 is absent."""
    gradients = normal(AGENTS, PARAMETERS)
    gradients[1, 3], gradients[2, 0], gradients[4] = math.nan, -math.inf, math.nan
    kept = [0, 3, 5]
    present = [True, True, True, True, False, True]
    merged = exchange(name, lag=gate).merge(gradients, reported(present))
    assert merged.present.nonzero().flatten().tolist() == kept
    assert torch.equal(merged.sends, merged.present)
    if name in COMBINERS:
        expected = make_combiner(name, {})(gradients, present=merged.present)
    else:
        mask = torch.tensor([agent in kept for agent in range(AGENTS)])
        expected = weights(name, reported().of(mask)) @ gradients[mask]
        assert merged.weights is not None
        assert (merged.weights[~mask] == 0).all()
    torch.testing.assert_close(merged.vector, expected)


@pytest.mark.parametrize("name", ["mean", "krum"])
def test_with_no_agent_left_there_is_no_gradient_and_the_gate_notes_no_step(name: str) -> None:
    one = exchange(name, lag={"xi": 0.5})
    one.merge(normal(AGENTS, PARAMETERS), reported())
    noted = one.gate.state_dict()
    merged = one.merge(torch.full((AGENTS, PARAMETERS), torch.nan), reported())
    assert (merged.vector == 0).all()
    assert not merged.present.any()
    assert not merged.sends.any()
    assert merged.masked.all()
    assert torch.equal(one.gate.state_dict()["steps"], noted["steps"])


# Attack -------------------------------------------------------------------------------------------------------------------


def test_an_attack_comes_before_everything_else() -> None:
    gradients = normal(AGENTS, PARAMETERS)
    attack = Attack("random", [0, 5], scale=3.0)
    one = exchange("median", attack=attack)
    for step in range(3):
        merged = one.merge(gradients, reported())
        assert torch.equal(merged.vector, make_combiner("median", {})(attack(gradients, step)))


def test_nan_senders_are_masked_and_have_not_sent() -> None:
    merged = exchange("mean", attack=Attack("nan", [2])).merge(normal(AGENTS, PARAMETERS), reported())
    assert merged.present.tolist() == [True, True, False, True, True, True]
    assert merged.sends.tolist() == merged.present.tolist()
    assert merged.weights is not None
    np.testing.assert_allclose(merged.weights, [0.2, 0.2, 0, 0.2, 0.2, 0.2], rtol=1e-6)


# Gate ---------------------------------------------------------------------------------------------------------------------


LAG = {"xi": 0.5, "window": 2}


@pytest.mark.parametrize("name", ["mean", "median", "sum", "r_weighted"])
def test_agents_that_do_not_send_count_with_what_they_sent_last(name: str) -> None:
    """Against an uplink that is driven by hand."""
    one, scheme, rule = exchange(name, lag=LAG), Scheme("lag", gate_kwargs=LAG), make_rule(name, {})
    uplink, held, drift = Uplink(scheme, scheme.make_gate(AGENTS)), 0, torch.zeros(AGENTS, PARAMETERS)  # type: ignore[arg-type]
    for step in range(30):
        drift = drift + 0.3 * normal(AGENTS, PARAMETERS, seed=step)
        received = uplink.transmit(drift, torch.ones(AGENTS, dtype=torch.bool), step=step)
        merged = one.merge(drift, reported())
        assert torch.equal(merged.sends, received.sends)
        if isinstance(rule, Combiner):
            expected, total = rule(received.vectors), 1.0
        else:
            assert isinstance(rule, Weighting)
            weighed = rule(reported())
            expected, total = weighed @ received.vectors, float(weighed.sum())
        torch.testing.assert_close(merged.vector, expected)
        uplink.note_step(expected / total)  # on the scale of a mean
        held += int((~received.sends).sum())
    assert held > 0


@pytest.mark.parametrize("name", ["sum", "r_weighted", *COMBINED])
def test_without_xi_the_gate_changes_nothing(name: str) -> None:
    plain, gated = exchange(name), exchange(name, lag={"xi": 0})
    for step in range(5):
        gradients = normal(AGENTS, PARAMETERS, seed=step)
        one, other = plain.merge(gradients.clone(), reported()), gated.merge(gradients.clone(), reported())
        assert torch.equal(one.vector, other.vector)
        assert other.sends.all()


# Idle ---------------------------------------------------------------------------------------------------------------------


def test_a_combiner_does_not_see_idle_agents_nor_count_them_as_faulty() -> None:
    """Two are idle and one sends far too much: trimming must still leave that one out."""
    gradients = normal(AGENTS, PARAMETERS)
    gradients[3] = 1e6
    idle = torch.tensor([True, True, False, False, False, False])
    merged = exchange("trimmed_mean").merge(gradients, reported(), idle=idle)
    expected = make_combiner("trimmed_mean", {"num_byzantine": 1})(gradients[2:])
    assert torch.equal(merged.vector, expected)
    assert merged.vector.abs().max() < 10
    assert merged.present.all()
    assert merged.sends.tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("gate", [None, {"xi": 0}])
def test_a_rule_weighs_idle_agents_but_adds_nothing_for_them(gate: Any) -> None:
    idle = torch.tensor([True, False, False, False, False, False])
    one = exchange("mean", lag=gate)
    one.merge(normal(AGENTS, PARAMETERS, seed=1), reported())
    gradients = normal(AGENTS, PARAMETERS)
    merged = one.merge(gradients, reported(), idle=idle)
    torch.testing.assert_close(merged.vector, gradients[1:].sum(0) / AGENTS)
    assert torch.equal(merged.sends, ~idle)


# Random gate --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ["gradients", "parameters"])
@pytest.mark.parametrize("name", ["samples", "median"])
def test_the_random_gate_leaves_out_agents_that_do_not_send(name: str, payload: str) -> None:
    scheme = Scheme("random", rule=name, payload=payload, gate_kwargs={"expected_messages": 3})
    one, counts = Exchange(scheme, AGENTS), set()
    for step in range(20):
        vectors, reference = normal(AGENTS, PARAMETERS, seed=step), normal(PARAMETERS, 1, seed=step)[:, 0]
        merged = one.merge(vectors.clone(), reported(), reference=reference if payload == "parameters" else None)
        senders = merged.sends.nonzero().flatten().tolist()
        counts.add(len(senders))
        assert torch.equal(merged.present, merged.sends)
        assert not merged.masked.any()
        if not senders:
            expected = reference.numpy() if payload == "parameters" else np.zeros(PARAMETERS)
        elif name == "median":
            expected = np.median(vectors[senders], axis=0)
        else:
            expected = np.average(vectors[senders], axis=0, weights=REPORTED[senders])
        np.testing.assert_allclose(merged.vector, expected, rtol=1e-5, atol=1e-6)
    assert len(counts) > 2


def test_parameters_stay_if_no_agent_sends() -> None:
    """Not zeros, whatever merges."""
    reference, present = torch.arange(4.0), [False] * 3
    for name in ("mean", "median"):
        for payload in ("parameters", "parameter_differences"):
            one = Exchange(Scheme(rule=name, payload=payload), 3)
            merged = one.merge(normal(3, 4), Signals(returns=[1.0, 2.0, 3.0], present=present), reference=reference)
            assert torch.equal(merged.vector, reference)
            assert not merged.present.any()


# Parameters ---------------------------------------------------------------------------------------------------------------


def test_lag_of_parameters_without_xi_is_plain_averaging_to_the_bit() -> None:
    lazy = Exchange(Scheme("lag", rule="samples", payload="parameters", gate_kwargs={"xi": 0}), AGENTS)
    plain = Exchange(Scheme(rule="samples", payload="parameters"), AGENTS)
    for step in range(5):
        vectors, reference = normal(AGENTS, PARAMETERS, seed=step), normal(1, PARAMETERS, seed=step)[0]
        one = lazy.merge(vectors.clone(), reported(), reference=reference)
        other = plain.merge(vectors.clone(), reported(), reference=reference)
        assert torch.equal(one.vector, other.vector)
        assert one.sends.all()
    assert lazy.ledger.state_dict() == plain.ledger.state_dict()


def test_lag_of_parameters_is_silent_where_little_changes() -> None:
    one = Exchange(Scheme("lag", payload="parameters", gate_kwargs={"xi": 0.5, "window": 1}), 2)
    known = torch.zeros(3)
    first = one.merge(torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 0.0]]), Signals(returns=[0.0, 0.0]), reference=known)
    assert first.vector.tolist() == [0.5, 1.0, 0.0]  # the change, of square 1.25
    later = torch.tensor([[1.7, 0.0, 0.0], [0.0, 2.0, 0.9]])  # differ by squares of 0.49 and 0.81
    second = one.merge(later, Signals(returns=[0.0, 0.0]), reference=first.vector)
    assert second.sends.tolist() == [False, True]
    torch.testing.assert_close(second.vector, torch.tensor([0.5, 1.0, 0.45]))


def test_krum_of_parameters_ignores_two_of_eight_that_are_reversed() -> None:
    """Each agent descends its own quadratic; two send the negative of what they have."""
    targets, theta = 3.0 + 0.1 * normal(8, 5), torch.zeros(5)
    robust = Exchange(
        Scheme(rule="krum", rule_kwargs={"num_byzantine": 2}, payload="parameters", schedule=2),
        8,
        attack={"kind": "sign_flip", "agents": [1, 6]},
    )
    robust.check()
    local = theta.expand(8, -1).clone()
    for _ in range(40):
        local = local - 0.2 * (local - targets)
        if robust.due():
            merged = robust.merge(local.clone(), Signals(num_samples=torch.ones(8)), reference=theta)
            theta = merged.vector
            honest = [agent for agent in range(8) if agent not in (1, 6)]
            assert any(torch.equal(theta, local[agent]) for agent in honest)
            local = theta.expand(8, -1).clone()
    assert robust.num_exchanges == 20
    assert (theta - 3.0).abs().max() < 0.4


def test_parameters_merged_after_one_plain_step_are_a_step_by_the_mean_of_gradients() -> None:
    theta, gradients = normal(1, PARAMETERS)[0], normal(AGENTS, PARAMETERS, seed=1)
    local = theta - 0.1 * gradients
    for payload in ("parameters", "parameter_differences"):
        merged = Exchange(Scheme(payload=payload), AGENTS).merge(local.clone(), reported(), reference=theta)
        torch.testing.assert_close(merged.vector, theta - 0.1 * gradients.mean(0), rtol=0, atol=1e-6)


def test_idle_agents_have_no_parameters_to_average() -> None:
    idle = torch.tensor([True, False, False])
    vectors = torch.tensor([[9.0], [1.0], [3.0]])
    for name in ("mean", "median"):
        merged = Exchange(Scheme(rule=name, payload="parameters"), 3).merge(
            vectors.clone(), Signals(returns=[0.0] * 3), idle=idle
        )
        assert merged.vector.tolist() == [2.0]
        assert merged.present.tolist() == [False, True, True]


@pytest.mark.parametrize("found", [[1.0, -0.5], [0.0, 0.0]])
def test_weights_that_cannot_average_parameters(found: list[float]) -> None:
    one = Exchange(Scheme(rule=lambda signals: found, payload="parameters"), 2)
    with pytest.raises(ValueError, match="parameters are averaged with weights >= 0 of positive sum, got"):
        one.merge(normal(2, 3), Signals(returns=[1.0, 2.0]))


# Accumulation -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mean", "r_weighted", "median"])
def test_gradients_every_second_step_are_the_mean_of_two_steps(name: str) -> None:
    one, plain = Exchange(Scheme(rule=name, schedule=2), AGENTS), Exchange(Scheme(rule=name), AGENTS)
    for step in range(3):
        first, second = normal(AGENTS, PARAMETERS, seed=2 * step), normal(AGENTS, PARAMETERS, seed=2 * step + 1)
        assert one.step(first, reported()) is None
        merged = one.step(second, reported())
        expected = plain.merge((first + second) / 2, reported())
        assert merged is not None
        torch.testing.assert_close(merged.vector, expected.vector, rtol=0, atol=1e-6)
    assert one.ledger.state_dict() == plain.ledger.state_dict()


class EverySecond(EveryStep):
    def due(self, num_steps: int, since_last: int) -> bool:
        return since_last == 2


@pytest.mark.parametrize("name", ["mean", "median"])
def test_a_schedule_of_a_users_own_is_asked(name: str) -> None:
    own = Exchange(Scheme(rule=name, schedule=EverySecond()), AGENTS)
    assert not own.weights_only
    found = [own.step(normal(AGENTS, PARAMETERS), reported()) for _ in range(4)]
    assert [merged is None for merged in found] == [True, False, True, False]


def test_losses_are_averaged_and_samples_added_up() -> None:
    one, nan = Exchange(Scheme(rule="l_weighted", schedule=2), 3), math.nan
    seen = []
    combined = Exchange(Scheme(rule=lambda signals: seen.append(signals) or [1.0] * 3, schedule=2), 3)
    for exchange_ in (one, combined):
        exchange_.step(torch.ones(3, 2), Signals(losses=[1.0, 2.0, nan], num_samples=[4, 0, 1]))
        exchange_.step(torch.ones(3, 2), Signals(losses=[3.0, nan, 5.0], num_samples=[4, 2, nan]))
    (signals,) = seen
    assert signals.losses.tolist() == [2.0, 2.0, 5.0]
    assert signals.num_samples.tolist() == [8.0, 2.0, 1.0]


def test_between_exchanges_an_agent_may_be_idle_or_at_fault() -> None:
    """Agent 0 is idle in one step, agent 1 in both; agent 2 is at fault in one, agent 3 in both."""
    one, nan = Exchange(Scheme(schedule=2), 5), math.nan
    steps = [[4.0, 9.0, 6.0, nan, 2.0], [9.0, 9.0, nan, nan, 4.0]]
    idle = [[False, True, False, False, False], [True, True, False, False, False]]
    for gradients, lazy in zip(steps, idle, strict=True):
        merged = one.step(torch.tensor(gradients)[:, None], Signals(returns=[0.0] * 5), idle=torch.tensor(lazy))
    assert merged is not None
    assert merged.vector.tolist() == [(4.0 + 0.0 + 6.0 + 3.0) / 4]
    assert merged.masked.tolist() == [False, False, False, True, False]
    assert merged.sends.tolist() == [True, False, True, False, True]


# Signals ------------------------------------------------------------------------------------------------------------------


def test_a_rule_weighs_agents_that_do_not_send_by_the_signals_that_came_with_what_is_held() -> None:
    def gated() -> Exchange:
        return Exchange(Scheme("lag", rule="l_weighted", gate_kwargs={"xi": 1e9, "window": 1}), 2)

    one, gradients, later = gated(), normal(2, PARAMETERS), Signals(losses=[9.0, 1.0])
    first = one.merge(gradients.clone(), Signals(losses=[1.0, 3.0]))
    assert first.sends.tolist() == [True, True]
    second = one.merge(gradients.clone(), later)
    assert second.sends.tolist() == [False, False]
    assert torch.equal(second.weights, first.weights)
    again = gated()
    again.load_state_dict(one.state_dict())
    assert torch.equal(again.merge(gradients.clone(), later).weights, first.weights)


def test_an_extra_is_counted_and_not_compressed() -> None:
    for codec, size in (("identity", 4), ("float16", 2)):
        one = Exchange(Scheme(codec=codec, payload="parameters"), 3)
        one.merge(normal(3, 5), Signals(returns=[0.0] * 3), extra=10)
        assert one.ledger.bytes == 3 * (5 * size + 10 * 4)
        assert one.ledger.bytes_down == 3 * 15 * 4


def test_only_a_gate_that_decides_asks_for_the_optimisers_scale() -> None:
    asks = {"every": False, "random": True, "lag": True}
    for gate, expected in asks.items():
        kwargs = {"expected_messages": 2} if gate == "random" else {}
        for codec in ("identity", "float16"):
            scheme = make_scheme("mean", communication=gate, communication_kwargs=kwargs, compression=codec)
            assert Exchange(scheme, 4).scales == expected


def test_an_agent_that_is_idle_by_chance_counts_as_zero_among_gradients_that_are_added_up() -> None:
    """As in single steps, where a weighted sum counts it as zero."""
    rows = torch.tensor([[[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 4.0]]])
    idle = torch.tensor([[False, True], [True, False]])
    signals = Signals(present=[True, True])
    single = Exchange(Scheme(rule="mean"), 2)
    expected = torch.stack([single.merge(rows[t].clone(), signals, idle=idle[t]).vector for t in range(2)]).mean(0)
    for zeros, vector in ((True, expected), (False, torch.tensor([1.0, 2.0]))):
        several = Exchange(Scheme(rule="mean", schedule=2), 2)
        assert several.step(rows[0].clone(), signals, idle=idle[0], zeros=zeros) is None
        merged = several.step(rows[1].clone(), signals, idle=idle[1], zeros=zeros)
        assert merged is not None
        torch.testing.assert_close(merged.vector, vector)


def test_mixtailor_draws_by_the_run_unless_it_has_a_seed() -> None:
    def drawn(run: int, **settings: Any) -> list[str]:
        made = Exchange(Scheme(rule="mixtailor", rule_kwargs=settings), 5, seed=run)
        return [type(made._rule.at(step)).__name__ for step in range(12)]

    assert drawn(0) != drawn(1)
    assert drawn(1) == drawn(1)
    assert drawn(0, seed=3) == drawn(1, seed=3)


def test_a_seed_that_is_given_outlives_the_restore_of_another_run() -> None:
    """The run's own is that of the run that was saved."""

    def made(run: int, **settings: Any) -> Exchange:
        return Exchange(Scheme(rule="mixtailor", rule_kwargs=settings), 5, seed=run)

    def drawn(exchange: Exchange) -> list[str]:
        return [type(exchange._rule.at(step)).__name__ for step in range(12)]

    saved = made(1).state_dict()
    for restored, expected in ((made(0), made(1)), (made(0, seed=3), made(0, seed=3))):
        restored.load_state_dict(saved)
        assert drawn(restored) == drawn(expected)
