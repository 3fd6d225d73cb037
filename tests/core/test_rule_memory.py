"""What rules remember of signals: running means, and evidence that an agent is worse than the others."""

from __future__ import annotations

import itertools
import math
import re
from typing import Any

import numpy as np
import pytest
import torch

from rl_agg import Exchange, Scheme, Signals, Weighting, register_rule, weights
from rl_agg.rules.evidence import BET, Evidence
from rl_agg.rules.memory import Memory
from tests.core.gradients import normal

NAN, INF = math.nan, math.inf
PROVIDED = frozenset({"explained_variance"})


def exchange(rule: str, num_agents: int, payload: str = "gradients", **settings: Any) -> Exchange:
    return Exchange(Scheme(rule=rule, payload=payload, rule_kwargs=settings), num_agents, provides=PROVIDED)


def explained(*values: float, present: list[bool] | None = None) -> Signals:
    return Signals(explained_variance=values, present=[True] * len(values) if present is None else present)


# Running means --------------------------------------------------------------------------------------------------------------


def test_running_means_by_hand() -> None:
    """0.3 of what is new, from 0 on: 0.3 * 0.5, then 0.7 * 0.15 + 0.3 * 1; the other is not seen in the second update."""
    own = exchange("e_weighted", 2, prior=0.25)
    weighed = []
    for values in ((0.5, 1.0), (1.0, NAN)):
        own.begin_update(explained(*values))
        weighed.append(own.weigh(Signals(present=[True, True])).tolist())
    assert weighed[0] == pytest.approx([0.4 / 0.95, 0.55 / 0.95])
    assert weighed[1] == pytest.approx([0.655 / 1.205, 0.55 / 1.205])


def test_it_begins_as_the_mean_and_weighs_alike_within_an_update() -> None:
    own = exchange("e_weighted", 4)
    assert own.weigh(Signals(present=[True] * 4)).tolist() == [0.25] * 4
    own.begin_update(explained(0.0, 0.9, 0.9, 0.9))
    first = own.weigh(Signals(present=[True] * 4))
    assert torch.equal(own.weigh(Signals(present=[True] * 4)), first)
    for _ in range(30):
        own.begin_update(explained(0.0, 0.9, 0.9, 0.9))
    last = own.weigh(Signals(present=[True] * 4))
    assert first[0] > last[0]
    torch.testing.assert_close(last, torch.tensor([0.1, 1.0, 1.0, 1.0], dtype=torch.float64) / 3.1, rtol=1e-4, atol=1e-4)


def test_a_masked_agent_is_not_observed() -> None:
    own = exchange("e_weighted", 3, prior=0.5, smoothing=0.0)
    own.begin_update(explained(1.0, 0.0, 0.5))
    own.begin_update(Signals(explained_variance=[0.0, 0.0, 0.0], returns=[INF, 1.0, 1.0], present=[True, True, False]))
    assert own.weigh(Signals(present=[True] * 3)).tolist() == pytest.approx([1.5 / 3, 0.5 / 3, 1 / 3])
    assert own.weigh(Signals(present=[True, True, False])).tolist() == pytest.approx([0.75, 0.25, 0.0])


def test_steps_of_an_update_are_one_observation() -> None:
    """Agreement in an update is the mean over its steps, and is known when the next begins."""
    own = exchange("agreement", 3, smoothing=0.5)
    everyone, rows = Signals(present=[True] * 3), [normal(3, 10, seed=seed) + 0.5 for seed in range(4)]
    own.begin_update(everyone)
    for step in rows[:3]:
        merged = own.merge(step.clone(), everyone)
        assert merged.weights is not None
        assert merged.weights.tolist() == pytest.approx([1 / 3] * 3)
    own.begin_update(everyone)
    merged = own.merge(rows[3].clone(), everyone)
    cosines = []
    for step in rows[:3]:
        units = step / step.norm(dim=1, keepdim=True)
        cosines.append([torch.cosine_similarity(unit, units.sum(0) - unit, dim=0).item() for unit in units])
    means = np.clip(np.mean(cosines, axis=0), 0, None)  # halved alike, which does not matter
    assert merged.weights is not None
    np.testing.assert_allclose(merged.weights, means / means.sum(), rtol=1e-5)
    torch.testing.assert_close(merged.vector, merged.weights @ rows[3])


def test_norms_are_those_of_the_step_itself() -> None:
    own, rows = exchange("equal_norms", 3), normal(3, 10) * torch.tensor([[1.0], [100.0], [0.01]])
    lengths = rows.norm(dim=1)
    expected = (rows / lengths[:, None]).mean(0) * lengths.median()
    torch.testing.assert_close(own.merge(rows.clone(), Signals(present=[True] * 3)).vector, expected)


def test_identical_gradients_combine_to_themselves() -> None:
    row = normal(10)
    for rule in ("e_weighted", "agreement", "snr_weighted", "equal_norms", "guarded"):
        own = exchange(rule, 4)
        for _ in range(3):
            own.begin_update(explained(0.1, 0.2, 0.3, 0.4))
            vector = own.merge(row.expand(4, 10).clone(), explained(0.1, 0.2, 0.3, 0.4)).vector
            torch.testing.assert_close(vector, row)


@pytest.mark.parametrize("rule", ["agreement", "snr_weighted", "equal_norms"])
def test_an_agent_whose_vector_is_not_finite_is_masked_and_not_compared(rule: str) -> None:
    own, everyone = exchange(rule, 5), Signals(present=[True] * 5)
    alone = exchange(rule, 4)
    for seed in range(3):
        rows = normal(5, 8, seed=seed) + 0.3
        rows[2, 0] = NAN
        others = rows[[0, 1, 3, 4]].clone()
        own.begin_update(everyone)
        alone.begin_update(Signals(present=[True] * 4))
        merged, expected = own.merge(rows, everyone), alone.merge(others, Signals(present=[True] * 4))
        assert merged.masked.tolist() == [False, False, True, False, False]
        torch.testing.assert_close(merged.vector, expected.vector)


def test_parameters_are_compared_by_what_they_have_moved() -> None:
    """At once: no two merges share an update."""
    own, origin = exchange("agreement", 4, "parameters"), 100 * normal(60)
    moves = normal(4, 60) + 1.0
    moves[3] *= -1
    merged = own.merge(origin + moves, Signals(present=[True] * 4), reference=origin)
    assert merged.weights is not None
    assert merged.weights[3] == 0
    assert merged.weights[:3].tolist() == pytest.approx([1 / 3] * 3, abs=0.1)
    torch.testing.assert_close(merged.vector, merged.weights @ (origin + moves), rtol=1e-4, atol=1e-4)


def test_liars_are_not_listened_to() -> None:
    """Two of eight send their gradient reversed and ten times as long: by direction they disagree with all but each other."""
    own, everyone = exchange("agreement", 8), Signals(present=[True] * 8)
    for seed in range(3):
        rows = normal(8, 200, seed=seed) + 1.0
        honest = rows[2:].mean(0)
        rows[:2] *= -10
        own.begin_update(everyone)
        merged = own.merge(rows, everyone)
    assert merged.weights is not None
    assert merged.weights[:2].tolist() == [0, 0]
    assert torch.cosine_similarity(merged.vector, honest, dim=0) > 0.99


def test_the_server_knows_what_it_compares_also_of_agents_that_are_silent() -> None:
    """What they report is that of their last message; their agreement is that of what the server holds."""
    scheme = Scheme(gate="lag", gate_kwargs={"xi": 1e9}, rule="guarded", rule_kwargs={"guard": 0.9, "smoothing": 0.0})
    own = Exchange(scheme, 5, provides=PROVIDED)
    rows = normal(5, 40) + 2.0
    rows[0] *= -1
    for _ in range(12):
        signals = explained(0.5, 0.5, 0.5, 0.5, 0.5)
        own.begin_update(signals)
        merged = own.merge(rows.clone(), signals)
    assert own.ledger.messages < 12 * 5
    assert merged.weights is not None
    assert merged.weights[0] == 0
    assert merged.weights[1:].min() > 0


# The guard ------------------------------------------------------------------------------------------------------------------


def test_a_bet_on_ranks_is_fair() -> None:
    """Over all orders of four agents, and with ties, the wealth that follows is 1 on average."""
    for values in ([0.1, 0.2, 0.3, 0.4], [0.1, 0.1, 0.3, 0.3], [0.0, 0.0, 0.0, 1.0]):
        wealth = []
        for order in itertools.permutations(values):
            evidence = Evidence(4, bound=99.0)
            evidence.add(torch.tensor(order, dtype=torch.float64))
            wealth.append(evidence.state_dict()["wealth"].exp())
        np.testing.assert_allclose(torch.stack(wealth).mean(0), 1)


def test_the_wealth_by_hand() -> None:
    """Ranks 0, 1/2, 1/2 and 1 of three that are ahead of one; unknown ones are not ranked."""
    evidence = Evidence(5, bound=99.0)
    evidence.add(torch.tensor([0.1, 0.5, NAN, 0.5, 0.9]))
    np.testing.assert_allclose(evidence.state_dict()["wealth"].exp(), [1 + BET, 1, 1, 1, 1 - BET], atol=1e-12)


def test_alike_agents_are_rarely_found_worse() -> None:
    """In at most a tenth of the runs, though one looks after each of 200 updates; and one that is worse is found."""
    generator, found, runs = np.random.default_rng(0), 0, 60
    for _ in range(runs):
        evidence = Evidence(8, math.log(8 / 0.1))
        ever = torch.zeros(8, dtype=torch.bool)
        for _ in range(200):
            evidence.add(torch.from_numpy(generator.normal(size=8)))
            ever |= evidence.established
        found += bool(ever.any())
    assert found / runs <= 0.1 + 2 * math.sqrt(0.1 * 0.9 / runs)
    evidence = Evidence(8, math.log(8 / 0.05))
    shift = np.array([-2.0, -2.0, 0, 0, 0, 0, 0, 0])
    for _ in range(30):
        evidence.add(torch.from_numpy(generator.normal(size=8) + shift))
    assert evidence.established.tolist() == [True, True, *[False] * 6]


def test_an_agent_that_recovers_counts_again() -> None:
    """Three updates as the best of four undo what any number as the worst has shown."""
    evidence, others = Evidence(4, math.log(4 / 0.05)), [1.0, 2.0, 3.0]
    for step in range(48):
        evidence.add(torch.tensor([0.0, *np.roll(others, step)]))
    assert evidence.established.tolist() == [True, False, False, False]
    for step in range(3):
        evidence.add(torch.tensor([9.0, *np.roll(others, step)]))
    assert not evidence.established.any()


def test_with_a_guard_it_is_the_mean_until_the_evidence_is_there() -> None:
    own, plain = exchange("e_weighted", 8, guard=0.05), exchange("e_weighted", 8)
    everyone, generator, weighed = Signals(present=[True] * 8), np.random.default_rng(0), []
    for _ in range(20):
        signals = explained(0.0, 0.0, *generator.uniform(0.6, 0.9, 6))
        own.begin_update(signals)
        plain.begin_update(signals)
        weighed.append(own.weigh(everyone))
    assert plain.weigh(everyone)[2:].std() > 1e-3
    for found in weighed[:6]:
        torch.testing.assert_close(found, torch.full((8,), 0.125, dtype=torch.float64))
    assert weighed[-1][:2].max() < 0.03
    assert weighed[-1][2:].std() < 1e-12  # they do not differ


def test_the_guarded_rule_has_a_guard_of_its_own() -> None:
    assert Weighting("guarded").guard == 0.05
    assert Weighting("guarded", guard=0.2).guard == 0.2
    assert Weighting("e_weighted").guard is None
    own = exchange("guarded", 8)
    everyone = Signals(present=[True] * 8)
    for step in range(25):
        own.begin_update(explained(*[0.5] * 8))
        rows = normal(8, 100, seed=step) + 0.5
        rows[:2] *= -10
        merged = own.merge(rows, everyone)
        assert merged.weights is not None
        if step < 5:
            assert merged.weights.tolist() == pytest.approx([0.125] * 8)
    assert merged.weights.tolist() == pytest.approx([0, 0, *[1 / 6] * 6])


def test_of_noise_less_is_better() -> None:
    memory = Memory(4, {"noise"}, 0.0, 0.05)
    for step in range(30):
        memory.observe("noise", torch.tensor([3.0, *np.roll([0.4, 0.3, 0.5], step)]))
        memory.end_update()
    assert memory.means(torch.ones(4))["noise"].tolist() == pytest.approx([3.0, 0.4, 0.4, 0.4])


# Settings, errors, checkpoints ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "settings", "message"),
    [
        ("mean", {"smoothing": 0.5}, "mean has no setting 'smoothing'; choose from normalize"),
        ("equal_norms", {"guard": 0.05}, "equal_norms has no setting 'guard'; choose from most, normalize"),
        ("e_weighted", {"smoothing": 1.0}, "smoothing must be a finite number >= 0 and < 1, got 1.0"),
        ("e_weighted", {"guard": 0}, "guard must be a finite number > 0 and < 1, got 0"),
        ("agreement", {"guard": "5 %"}, "guard must be a finite number > 0 and < 1, got '5 %'"),
    ],
)
def test_settings_are_refused(rule: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Scheme(rule=rule, rule_kwargs=settings)


def test_a_memory_that_would_do_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="mean reads no signal that is remembered, so guard would do nothing"):
        Weighting("mean", guard=0.1)


def test_a_host_that_does_not_report_a_signal_is_named() -> None:
    with pytest.raises(ValueError, match="rule 'guarded' reads explained_variance, which this algorithm does not report"):
        Exchange(Scheme(rule="guarded"), 3).check()
    exchange("guarded", 3).check()
    Exchange(Scheme(rule="agreement"), 3).check()  # the server finds it by itself
    with pytest.raises(ValueError, match=r"this rule needs Signals\.explained_variance, which was not given"):
        exchange("e_weighted", 3).begin_update(Signals(present=[True] * 3))


def test_agents_that_exchange_alone_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match="rule 'agreement' reads agreement, by which agents that exchange together"):
        Scheme(rule="agreement", schedule="on_arrival")


def test_a_rule_of_ones_own_reads_remembered_signals() -> None:
    def trusting(signals: Signals) -> Any:
        return signals.explained_variance > 0.2

    register_rule("trusting", trusting, needs=["explained_variance"])
    own = exchange("trusting", 3, smoothing=0.0)
    own.begin_update(explained(0.1, 0.3, 0.9))
    assert own.weigh(Signals(present=[True] * 3)).tolist() == [0, 1, 1]


def test_only_what_is_sent_is_charged() -> None:
    for rule, scalars in (("agreement", 0), ("equal_norms", 0), ("e_weighted", 1), ("guarded", 1)):
        own = exchange(rule, 3)
        own.begin_update(explained(0.1, 0.2, 0.3))
        own.merge(normal(3, 10), explained(0.1, 0.2, 0.3))
        assert own.ledger.bytes == 3 * (40 + 4 * scalars)


def steps(own: Exchange, seeds: range) -> list[torch.Tensor]:
    """Vectors of two steps in each update."""
    found = []
    for seed in seeds:
        generator = np.random.default_rng(seed)
        own.begin_update(explained(0.0, *generator.uniform(0.3, 0.9, 3)))
        for step in range(2):
            rows = normal(4, 12, seed=10 * seed + step) + 0.5
            rows[0] *= -3
            found.append(own.merge(rows, Signals(present=[True] * 4)).vector)
    return found


@pytest.mark.parametrize(
    ("rule", "settings"),
    [("e_weighted", {}), ("e_weighted", {"guard": 0.3}), ("agreement", {}), ("snr_weighted", {}), ("guarded", {"guard": 0.3})],
    ids=str,
)
def test_a_restored_exchange_continues(rule: str, settings: dict[str, Any]) -> None:
    """In the middle of an update's observations."""
    whole, first, second = (exchange(rule, 4, **settings) for _ in range(3))
    expected = steps(whole, range(8))
    found = steps(first, range(5))
    second.load_state_dict(first.state_dict())
    found += steps(second, range(5, 8))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    afresh = exchange(rule, 4, **settings)
    assert not all(torch.equal(one, other) for one, other in zip(steps(afresh, range(5, 8)), expected[10:], strict=True))
    fewer = exchange(rule, 3, **settings)
    fewer.load_state_dict(first.state_dict())  # of another number of agents, which starts afresh
    assert fewer.weigh(Signals(present=[True] * 3)).tolist() == pytest.approx([1 / 3] * 3)


def test_weights_alone_see_what_they_are_given() -> None:
    assert weights("e_weighted", Signals(explained_variance=[1.0, 0.0]), prior=1.0).tolist() == pytest.approx([2 / 3, 1 / 3])
