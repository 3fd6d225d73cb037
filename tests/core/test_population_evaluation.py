"""Episodes in parallel: the same as one by one, whatever runs alongside."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.population import (
    ActionDecoder,
    ListedEnvironments,
    ObservationEncoder,
    Report,
    VectorEnvironments,
    buffer_bytes,
    merge_reports,
    open_environments,
    time_limit,
)
from rl_agg.seeding import stream


def listed(id_: str, **settings: Any) -> ListedEnvironments:
    return ListedEnvironments(lambda: gym.make(id_, disable_env_checker=True, **settings))


def evaluator(environments: Any, **settings: Any) -> PopulationEvaluator:
    return PopulationEvaluator(environments, **{"hidden": (8,), "activation": "tanh", "gamma": 0.97, **settings})


def population(built: PopulationEvaluator, size: int, scale: float = 1.0) -> np.ndarray:
    return np.stack([built.network.initial(stream("start", 0, 0, agent)) * np.float32(scale) for agent in range(size)])


def one_by_one(id_: str, built: PopulationEvaluator, parameters: np.ndarray, seeds: np.ndarray) -> list[tuple[float, ...]]:
    """A plain loop: one environment, one network, one step at a time."""
    env, outcomes = gym.make(id_), []
    for theta, seed in zip(parameters, seeds.tolist(), strict=True):
        observation, _ = env.reset(seed=seed)
        total, discounted, length, done = 0.0, 0.0, 0, False
        while not done:
            row = built.encoder([observation])
            action = built.decoder(built.network.forward(built.network.stack(theta[None]), row))[0]
            observation, reward, terminated, truncated, _ = env.step(action)
            total += float(reward)
            discounted += built.gamma**length * float(reward)
            length += 1
            done = terminated or truncated
        outcomes.append((total, discounted, length))
    return outcomes


@pytest.mark.parametrize("id_", ["CartPole-v1", "Pendulum-v1", "rl_agg/WindyGrid-v0", "rl_agg/FrozenLake5x5-v0"])
def test_same_as_one_by_one(id_: str) -> None:
    built = evaluator(open_environments(id_, {}))
    parameters, seeds = population(built, 7), np.arange(7) + 100
    outcomes = built(parameters, seeds)
    for row, (total, discounted, length) in enumerate(one_by_one(id_, built, parameters, seeds)):
        assert outcomes.returns[row] == pytest.approx(total)
        assert outcomes.discounted[row] == pytest.approx(discounted)
        assert outcomes.lengths[row] == length


def test_vector_entry_point_gives_the_same_episodes_as_a_list() -> None:
    vector, several = evaluator(open_environments("CartPole-v1", {})), evaluator(listed("CartPole-v1"))
    assert isinstance(vector.environments, VectorEnvironments)
    parameters, seeds = population(vector, 20), np.arange(20)
    np.testing.assert_array_equal(vector(parameters, seeds).returns, several(parameters, seeds).returns)
    assert vector(parameters, seeds).lengths.max() > vector(parameters, seeds).lengths.min()


def test_ids_may_name_the_module_that_registers_them() -> None:
    assert open_environments("rl_agg.envs:rl_agg/SimpleGrid-v0", {}).max_episode_steps == 100


def test_vector_entry_point_takes_settings() -> None:
    built = evaluator(open_environments("CartPole-v1", {"sutton_barto_reward": True, "max_episode_steps": 9}))
    assert built(population(built, 3), np.arange(3)).lengths.max() <= 9
    assert built(population(built, 3), np.arange(3)).returns.min() >= -1.0


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.parametrize("id_", ["CartPole-v1", "Pendulum-v1", "rl_agg/WindyGrid-v0"])
def test_no_episode_depends_on_those_alongside(id_: str, explore: bool) -> None:
    built = evaluator(open_environments(id_, {}))
    parameters, seeds = population(built, 9), np.arange(9)
    scale = (np.full(built.encoder.size, 0.1, np.float32), np.full(built.encoder.size, 0.5, np.float32))

    def run(rows: np.ndarray) -> Any:
        samplers = [stream("actions", 0, 0, row) for row in rows.tolist()] if explore else None
        return built(parameters[rows], seeds[rows], samplers=samplers, scale=scale)

    together = run(np.arange(9))
    for rows in (np.array([4]), np.array([0, 8]), np.arange(3, 9)):
        apart = run(rows)
        for name in ("returns", "discounted", "lengths", "statistics"):
            np.testing.assert_array_equal(getattr(apart, name), getattr(together, name)[rows])


def test_statistics_are_of_what_the_networks_saw() -> None:
    built = evaluator(listed("Pendulum-v1"))
    mean, deviation = np.array([0.5, 0.0, 1.0], np.float32), np.ones(3, np.float32)
    statistics = built(population(built, 2), np.arange(2), scale=(mean, deviation)).statistics
    assert statistics.shape == (2, 7)
    assert statistics[:, 0].tolist() == [200, 200]
    env = gym.make("Pendulum-v1")
    first = env.reset(seed=0)[0]
    short = evaluator(listed("Pendulum-v1"), max_episode_steps=1)
    reported = short(population(built, 1), np.arange(1), scale=(mean, deviation)).statistics[0]
    np.testing.assert_allclose(reported, [1, *(first - mean), *(first - mean) ** 2], rtol=1e-5)


def test_sampled_actions_follow_the_softmax() -> None:
    decoder = ActionDecoder(gym.spaces.Discrete(3))
    outputs = np.array([[0.0, 1.0, 2.0]], np.float32)
    noise = decoder.noise(np.random.default_rng(0), 20_000)
    counts = np.bincount(decoder(outputs + noise), minlength=3) / 20_000
    np.testing.assert_allclose(counts, np.exp(outputs[0]) / np.exp(outputs[0]).sum(), atol=0.01)


def test_actions_span_a_bounded_box() -> None:
    space = gym.spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 10.0], np.float32))
    outputs = np.array([[-1.0, 0.0], [1.0, 9.0]], np.float32)
    assert ActionDecoder(space)(outputs).tolist() == [[-2.0, 5.0], [2.0, 10.0]]
    assert ActionDecoder(space, normalize=False)(outputs).tolist() == [[-1.0, 0.0], [1.0, 9.0]]
    unbounded = ActionDecoder(gym.spaces.Box(-np.inf, np.inf, (2,)))
    assert unbounded(outputs).tolist() == outputs.tolist()
    assert unbounded(outputs).dtype == np.float32


def test_spaces_with_a_start() -> None:
    encoder = ObservationEncoder(gym.spaces.Discrete(3, start=5))
    assert encoder([5, 7]).tolist() == [[1, 0, 0], [0, 0, 1]]
    with pytest.raises(ValueError, match=r"actions must begin at 0, .*TransformAction\(env, lambda action: action \+ -1, "):
        ActionDecoder(gym.spaces.Discrete(2, start=-1))
    wrapped = gym.wrappers.TransformAction(Shifted(), lambda action: action + -1, gym.spaces.Discrete(2))
    assert ActionDecoder(wrapped.action_space)(np.array([[0.0, 1.0]], np.float32)).tolist() == [1]
    wrapped.reset()
    assert wrapped.step(1)[1] == 0.0


class Shifted(gym.Env[Any, Any]):
    """Pays the action, -1 or 0."""

    observation_space = gym.spaces.Discrete(1)
    action_space = gym.spaces.Discrete(2, start=-1)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        return 0, {}

    def step(self, action: Any) -> Any:
        return 0, float(action), False, False, {}


class Odd(gym.Env[Any, Any]):
    """One step; pays NaN, observes NaN, or has no time limit."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, reward: float = 1.0, observation: float = 0.5) -> None:
        self._reward, self._observation = reward, observation

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.full(2, 0.5, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.full(2, self._observation, np.float32), self._reward, False, False, {}


@pytest.mark.parametrize("fault", [{"reward": np.nan}, {"observation": np.nan}])
def test_corrupt_episodes_return_nan(fault: dict[str, float]) -> None:
    built = evaluator(ListedEnvironments(lambda: Odd(**fault)), max_episode_steps=5)
    outcomes = built(population(built, 2), np.arange(2))
    assert np.isnan(outcomes.returns).all()
    assert np.isnan(outcomes.discounted).all()


def test_corrupt_parameters_spoil_their_own_episode_only() -> None:
    built = evaluator(open_environments("CartPole-v1", {}))
    parameters = population(built, 4)
    finite = built(parameters, np.arange(4)).returns
    parameters[2, 0] = np.nan
    returns = built(parameters, np.arange(4)).returns
    assert np.isnan(returns[2])
    np.testing.assert_array_equal(returns[[0, 1, 3]], finite[[0, 1, 3]])


def test_an_episode_must_end() -> None:
    with pytest.raises(ValueError, match="the environment has no time limit"):
        evaluator(ListedEnvironments(Odd))
    unlimited = open_environments("CartPole-v1", {"max_episode_steps": -1})
    with pytest.raises(ValueError, match="the environment has no time limit"):
        evaluator(unlimited)
    assert time_limit(gym.wrappers.TimeLimit(Odd(), 7)) == 7
    assert evaluator(ListedEnvironments(lambda: gym.wrappers.TimeLimit(Odd(), 7)), max_episode_steps=5).max_steps == 5
    assert evaluator(ListedEnvironments(lambda: gym.wrappers.TimeLimit(Odd(), 7))).max_steps == 7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gamma": 1.5}, "gamma must be a finite number >= 0 and <= 1, got 1.5"),
        ({"max_episode_steps": 0}, "max_episode_steps must be an integer >= 1, got 0"),
        ({"activation": "tan"}, "unknown activation 'tan' .did you mean 'tanh'"),
        ({"hidden": (0,)}, "sizes must be at least two positive numbers"),
        ({"action_noise_stdev": -1.0}, "action_noise_stdev must be a finite number >= 0, got -1.0"),
        ({"action_noise_stdev": "a"}, "action_noise_stdev must be a finite number >= 0, got 'a'"),
        ({"activation": ["tanh"]}, "unknown activation .*choose from linear, relu, silu, tanh"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        evaluator(listed("CartPole-v1"), **settings)


def test_bad_spaces() -> None:
    with pytest.raises(ValueError, match="observations must be a Box or Discrete"):
        ObservationEncoder(gym.spaces.Dict(a=gym.spaces.Discrete(2)))
    with pytest.raises(ValueError, match="actions must be a Box of floats or Discrete"):
        ActionDecoder(gym.spaces.MultiDiscrete([2, 2]))


SETTINGS = {"population": 10, "noise_stdev": 0.1, "lr": 0.05}


def build(**settings: Any) -> tuple[EvolutionStrategy, EvolutionAgents]:
    built = evaluator(open_environments("CartPole-v1", {}))
    shared = EvolutionSettings(**{**SETTINGS, **settings})
    strategy = EvolutionStrategy(built.network.initial(stream("start", 1)), run=1, observation_size=4, settings=shared)
    return strategy, EvolutionAgents(built, shared, explore=True)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"communication": "espc", "expected_messages": 4, "fitness": "raw"},
        {"communication": "deviation", "expected_messages": 4},
    ],
    ids=["every", "espc", "deviation"],
)
def test_split_agents_give_the_same_parameters(settings: dict[str, Any]) -> None:
    whole, split = build(**settings), build(**settings)
    for _ in range(6):
        whole[0].receive(whole[1].run(whole[0].broadcast(), np.arange(11)))
        broadcast = split[0].broadcast()
        parts = [split[1].run(broadcast, agents) for agents in (np.arange(7, 11), np.arange(3), np.arange(3, 7))]
        split[0].receive(merge_reports([*parts, parts[1]]))  # one of them twice
    assert (whole[0].theta == split[0].theta).all()
    assert whole[0].state_dict()["exchange"]["ledger"] == split[0].state_dict()["exchange"]["ledger"]


def test_statistics_of_observations_are_restored() -> None:
    whole, resumed = build(), build()
    for _ in range(4):
        whole[0].receive(whole[1].run(whole[0].broadcast(), np.arange(10)))
    resumed[0].load_state_dict(whole[0].state_dict())
    for _ in range(3):
        for strategy, agents in (whole, resumed):
            strategy.receive(agents.run(strategy.broadcast(), np.arange(10)))
    assert (whole[0].theta == resumed[0].theta).all()


def test_missing_agents_are_masked() -> None:
    strategy, agents = build()
    strategy.receive(agents.run(strategy.broadcast(), np.arange(4)))
    assert strategy.num_masked == 6
    assert strategy.ledger.messages == 4


def test_merged_reports_are_in_the_agents_order() -> None:
    def part(agents: list[int], senders: list[int]) -> Report:
        ids = np.array(agents)
        payload = {"fitness": np.array(senders, np.float32) * 10}
        return Report(ids, ids + 0.5, ids + 0.25, ids, ids[:, None] + 0.0, np.array(senders, np.uint16), payload)

    merged = merge_reports([part([2, 4], [4, 4]), part([0, 1, 2], [0, 2])])
    assert merged.agents.tolist() == [0, 1, 2, 4]
    assert merged.senders.tolist() == [0, 4, 4]
    assert merged.payload["fitness"].tolist() == [0, 40, 40]
    assert merged.memory[:, 0].tolist() == [0, 1, 2, 4]
    assert buffer_bytes(merged) == 4 * 8 * 4 + 4 * 8 + 3 * 2 + 3 * 4


class OwnLimit(gym.Env):
    """Ends its episodes itself and says when, as RLlib's and PettingZoo's do."""

    observation_space, action_space = gym.spaces.Discrete(2), gym.spaces.Discrete(2)

    def __init__(self, name: str, limit: object) -> None:
        setattr(self, name, limit)


@pytest.mark.parametrize("wrap", [lambda env: env, gym.Wrapper], ids=["as it is", "wrapped"])
@pytest.mark.parametrize("name", ["max_episode_steps", "max_cycles"])
def test_an_environment_says_its_limit_itself(name, wrap):
    assert time_limit(wrap(OwnLimit(name, 7))) == 7
    assert time_limit(gym.wrappers.TimeLimit(OwnLimit(name, 7), 5)) == 5
    for limit in (None, 0, "7"):
        assert time_limit(wrap(OwnLimit(name, limit))) is None
