"""Search for novelty: behaviours, distances and weights against plain loops, and a maze that misleads."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from scipy.stats import rankdata

from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.evolution.novelty import AdaptiveNovelty, NoveltySearch
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.population import Report, merge_reports, open_environments
from rl_agg.seeding import stream

WINDY = "rl_agg/WindyGrid-v0"


def final_place(observations: np.ndarray) -> list[float]:
    return [float(observations[-1].argmax() // 5), float(observations[-1].argmax() % 5)]


def run(id_: str = WINDY, number: int = 0, **settings: Any) -> tuple[EvolutionStrategy, EvolutionAgents]:
    evaluator = PopulationEvaluator(open_environments(id_, {}), hidden=(4,), max_episode_steps=12)
    shared = EvolutionSettings(**{"population": 8, "noise_stdev": 0.5, **settings})
    theta = evaluator.network.initial(stream("start", 3))
    return EvolutionStrategy(theta, run=number, settings=shared), EvolutionAgents(evaluator, shared)


def train(strategy: EvolutionStrategy, agents: EvolutionAgents, updates: int) -> Report:
    for _ in range(updates):
        report = agents.run(strategy.broadcast(), np.arange(strategy.num_agents + 1))
        strategy.receive(report)
    return report


def seen_by(id_: str, agents: EvolutionAgents, parameters: np.ndarray, seed: int) -> np.ndarray:
    """All observations of one episode, encoded, one step at a time."""
    built, env = agents.evaluator, gym.make(id_)
    observation, _ = env.reset(seed=seed)
    seen = [built.encoder([observation])[0]]
    for _ in range(12):
        outputs = built.network.forward(built.network.stack(parameters[None]), seen[-1][None])
        observation, _, terminated, truncated, _ = env.step(built.decoder(outputs)[0])
        seen.append(built.encoder([observation])[0])
        if terminated or truncated:
            break
    return np.array(seen)


@pytest.mark.parametrize(
    ("id_", "behaviour", "expected"),
    [
        (WINDY, None, lambda seen: seen.mean(0)),
        (WINDY, "final", lambda seen: seen[-1]),
        (WINDY, final_place, final_place),
        ("CartPole-v1", None, lambda seen: seen[-1]),
        ("CartPole-v1", "mean", lambda seen: seen.mean(0)),
        ("CartPole-v1", lambda seen: [len(seen), seen[0, 2]], lambda seen: [len(seen), seen[0, 2]]),
    ],
)
def test_behaviours_are_of_what_was_seen(id_: str, behaviour: Any, expected: Any) -> None:
    strategy, agents = run(id_, novelty="ns", novelty_kwargs={"behaviour": behaviour})
    everyone = np.arange(9)
    trial = agents.prepare(strategy.broadcast(), everyone)
    report = agents.run(strategy.broadcast(), everyone)
    assert report.behaviours is not None
    for row in everyone:
        seen = seen_by(id_, agents, trial.parameters[row], int(trial.seeds[row]))
        np.testing.assert_allclose(report.behaviours[row], expected(seen), rtol=1e-5, atol=1e-6)
    assert len(np.unique(report.behaviours, axis=0)) > 1


def test_novelty_is_the_mean_distance_from_the_nearest() -> None:
    generator = np.random.default_rng(0)
    search = NoveltySearch(neighbours=3)
    behaviours = generator.normal(size=(6, 4)).astype(np.float32)
    assert search.novelties(behaviours).tolist() == [0.0] * 6
    for size in range(1, 8):
        search.note(generator.normal(size=4).astype(np.float32), 0.0)
        expected = [sorted(np.linalg.norm(row - entry) for entry in search.archive)[:3] for row in behaviours]
        np.testing.assert_allclose(search.novelties(behaviours), [np.mean(each) for each in expected], rtol=1e-6)
        assert search.measures == {"archive_size": size, "archive_bytes": 16 * size, "return_weight": 0.0}


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("notes", [True, False])
def test_an_archive_of_another_size_starts_afresh(size: int, notes: bool) -> None:
    saved, restored = NoveltySearch(), NoveltySearch()
    for value in range(3):
        saved.note(np.full(4, value, np.float32), 0.0)
    restored.load_state_dict(saved.state_dict())
    if notes:
        restored.note(np.zeros(size, np.float32), 0.0)
    assert restored.novelties(np.ones((6, size), np.float32)).tolist() == [size**0.5 if notes else 0.0] * 6
    assert restored.archive.shape == (int(notes), size)
    assert saved.archive.shape == (3, 4)


@pytest.mark.parametrize(("novelty", "weight"), [("ns", 0.0), ("nsr", 0.5), ("nsr", 0.8)])
@pytest.mark.parametrize("fitness", ["ranks", "centered"])
def test_gradient_is_that_of_a_plain_loop(novelty: str, weight: float, fitness: str) -> None:
    kwargs: dict[str, Any] = {"neighbours": 2, **({} if novelty == "ns" else {"weight": weight})}
    settings = {"fitness": fitness, "optimizer": "sgd", "lr": 1.0, "l2_coeff": 0.0, "noise_stdev": 0.5}
    strategy, agents = run(novelty=novelty, novelty_kwargs=kwargs, **settings)
    archive: list[np.ndarray] = []
    for _ in range(4):
        theta, candidates = strategy.theta.astype(np.float64), strategy.ask().astype(np.float64)
        report = agents.run(strategy.broadcast(), np.arange(9))
        assert report.behaviours is not None
        archive.append(report.behaviours[8])
        nearest = [sorted(np.linalg.norm(row - entry) for entry in archive)[:2] for row in report.behaviours[:8]]
        novelties = np.array([np.mean(each) for each in nearest])

        def weigh(values: np.ndarray) -> np.ndarray:
            return (rankdata(values) - 1) / 7 - 0.5 if fitness == "ranks" else values - values.mean()

        shares = weight * weigh(report.discounted[:8]) + (1 - weight) * weigh(novelties)
        step = sum(share * (candidate - theta) for share, candidate in zip(shares, candidates, strict=True)) / (8 * 0.25)
        strategy.receive(report)
        np.testing.assert_allclose(strategy.theta - theta, step, rtol=1e-3, atol=1e-4)


def test_the_weight_adapts_to_the_return() -> None:
    search = AdaptiveNovelty(weight=0.5, change=0.2, patience=2)
    weights = []
    for fitness in (1.0, 1.0, 0.5, 2.0, 3.0, 4.0, 5.0, 0.0, 0.0, 0.0, 0.0):
        search.note(np.zeros(1, np.float32), fitness)
        weights.append(round(search.weight, 6))
    assert weights == [0.7, 0.7, 0.5, 0.7, 0.9, 1.0, 1.0, 1.0, 0.8, 0.8, 0.6]


def test_messages_hold_behaviours() -> None:
    for novelty, numbers in (("ns", 2), ("nsr", 3), ("nsra", 3)):
        strategy, agents = run(novelty=novelty, novelty_kwargs={"behaviour": final_place})
        train(strategy, agents, 3)
        assert strategy.ledger.bytes == 3 * 8 * (4 * numbers + 2)
        assert strategy.measures["archive_bytes"] == 3 * 2 * 4
    strategy, agents = run(novelty="ns", communication="random", expected_messages=3)
    train(strategy, agents, 10)
    assert 10 < strategy.ledger.messages < 60


@pytest.mark.parametrize("novelty", ["ns", "nsr", "nsra"])
def test_split_agents_and_restored_state_are_exact(novelty: str) -> None:
    kwargs = {"neighbours": 2, **({"patience": 1, "change": 0.1} if novelty == "nsra" else {})}
    settings = {"novelty": novelty, "novelty_kwargs": kwargs}
    whole, split, restored = run(**settings), run(**settings), run(number=9, **settings)
    train(*whole, 6)
    for _ in range(3):
        broadcast = split[0].broadcast()
        split[0].receive(merge_reports([split[1].run(broadcast, part) for part in (np.arange(3, 9), np.arange(3))]))
    restored[0].load_state_dict(split[0].state_dict())
    train(*restored, 3)
    np.testing.assert_equal(restored[0].state_dict(), whole[0].state_dict())
    assert len(whole[0].state_dict()["novelty"]["archive"]) == 6
    assert novelty != "nsra" or whole[0].novelty.weight < 1  # type: ignore[union-attr]


def test_broadcast_seeds_lead_agents_to_the_same_parameters() -> None:
    settings = {"novelty": "nsr", "fitness": "ranks"}
    plain, seeded = run(**settings), run(**settings, broadcast="seeds")
    train(*plain, 5)
    train(*seeded, 5)
    np.testing.assert_array_equal(plain[0].theta, seeded[0].theta)


def test_a_lost_episode_of_the_server_adds_nothing() -> None:
    strategy, agents = run(novelty="nsr")
    strategy.receive(agents.run(strategy.broadcast(), np.arange(8)))
    assert strategy.measures["archive_size"] == 0
    assert strategy.ledger.bytes == 8 * (4 * 26 + 2)
    train(strategy, agents, 1)
    assert strategy.measures["archive_size"] == 1


def test_a_behaviour_that_is_not_finite_is_masked() -> None:
    strategy, agents = run(novelty="ns", novelty_kwargs={"behaviour": lambda seen: [np.nan if seen[-1, 0] else 1.0]})
    report = train(strategy, agents, 1)
    masked = int(np.isnan(report.returns[:8]).sum())
    assert 0 < masked < 8
    assert (strategy.num_masked, strategy.ledger.messages) == (masked, 8 - masked)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"novelty": "nse"}, "unknown novelty 'nse'.*choose from ns, nsr, nsra"),
        ({"novelty": "ns", "novelty_kwargs": {"neighbours": 0}}, "neighbours must be an integer >= 1, got 0"),
        (
            {"novelty": "ns", "novelty_kwargs": {"weight": 0.5}},
            "ns has no setting 'weight'; choose from behaviour, neighbours",
        ),
        ({"novelty": "nsr", "novelty_kwargs": {"weight": 1.5}}, "weight must be a finite number >= 0 and <= 1, got 1.5"),
        ({"novelty": "nsra", "novelty_kwargs": {"change": 0}}, "change must be a finite number > 0 and <= 1, got 0"),
        ({"novelty": "nsra", "novelty_kwargs": {"patience": 0}}, "patience must be an integer >= 1, got 0"),
        (
            {"novelty": "ns", "novelty_kwargs": {"behaviour": "last"}},
            "unknown behaviour 'last'; choose from a function .*, final, mean",
        ),
        ({"novelty": "ns", "novelty_kwargs": 5}, "novelty_kwargs must be a dict, got 5"),
        ({"novelty_kwargs": {"neighbours": 3}}, "novelty_kwargs=.* has no effect without novelty"),
        (
            {"novelty": "ns", "communication": "deviation", "expected_messages": 4},
            "'deviation' goes by returns, .* choose every or",
        ),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EvolutionSettings(population=8, **settings)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        (lambda seen: [1.0] * len(seen), "equally many numbers for every episode"),
        (lambda seen: 1.0, r"behaviour must return a vector of numbers for every episode, got 1.0"),
        (lambda seen: "left", "equally many numbers for every episode"),
    ],
)
def test_functions_that_are_no_behaviour(behaviour: Any, message: str) -> None:
    strategy, agents = run("CartPole-v1", novelty="ns", novelty_kwargs={"behaviour": behaviour})
    with pytest.raises(ValueError, match=message):
        train(strategy, agents, 1)


def test_returns_alone_are_not_enough() -> None:
    strategy = EvolutionStrategy(np.zeros(3), population=4, novelty="ns")
    strategy.ask()
    with pytest.raises(ValueError, match=r"behaviours that novelty asks for; use broadcast\(\) and receive\(\)"):
        strategy.tell(np.zeros(4))
