"""Disturbances do what they say, to whom they say, and can be repeated."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env

from rl_agg.envs.disturbances import Disturbance, DisturbedReward, DisturbedSensors, make_unequal_env

Trace = list[tuple[np.ndarray, float, bool]]


def trace(env: gym.Env[Any, Any], seed: int = 3, steps: int = 20, action: Any = None) -> Trace:
    """What the agent experiences under the same actions."""
    observation, _ = env.reset(seed=seed)
    found: Trace = [(np.array(observation), 0.0, False)]
    env.action_space.seed(seed)
    for _ in range(steps):
        observation, reward, terminated, truncated, _ = env.step(env.action_space.sample() if action is None else action)
        found.append((np.array(observation), float(reward), terminated))
        if terminated or truncated:
            env.reset()
    return found


def observations(found: Trace) -> np.ndarray:
    return np.stack([observation for observation, _, _ in found])


def rewards(found: Trace) -> np.ndarray:
    return np.array([reward for _, reward, _ in found[1:]])


def same(one: Trace, other: Trace) -> bool:
    return bool(np.array_equal(observations(one), observations(other)) and np.array_equal(rewards(one), rewards(other)))


def make(env_id: str, disturbances: Sequence[Disturbance], agent: int = 0, **kwargs: Any) -> gym.Env[Any, Any]:
    return make_unequal_env(env_id, agent, disturbances, **kwargs)


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "sensor_noise": ("CartPole-v1", {"sensor_noise": 0.1}),
    "broken_sensors": ("CartPole-v1", {"broken_sensors": True}),
    "reward_scale": ("CartPole-v1", {"reward_scale": 2.5}),
    "broken_reward": ("CartPole-v1", {"broken_reward": True}),
    "gravity": ("LunarLander-v3", {"env_kwargs": {"gravity": -5.0}}),
    "wind": ("LunarLanderContinuous-v3", {"env_kwargs": {"enable_wind": True, "wind_power": 20.0}}),
    "masses": ("HalfCheetah-v5", {"mass_scale": 3.0}),
    "attributes": ("CartPole-v1", {"attributes": {"gravity": 20.0}}),
    "endless": ("CartPole-v1", {"endless": True}),
}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> tuple[str, Disturbance]:
    env_id, settings = KINDS[request.param]
    return env_id, Disturbance([1, 3], **settings)


def test_only_the_named_agents_are_disturbed(kind: tuple[str, Disturbance]) -> None:
    env_id, disturbance = kind
    plain = trace(gym.make(env_id))
    for agent in range(4):
        assert same(trace(make(env_id, [disturbance], agent)), plain) == (agent not in (1, 3))


def test_a_seed_repeats_everything(kind: tuple[str, Disturbance]) -> None:
    env_id, disturbance = kind
    env = make(env_id, [disturbance], 1)
    first = trace(env, seed=5)
    assert same(trace(env, seed=5), first)
    assert same(trace(make(env_id, [disturbance], 3), seed=5), first)
    assert not same(trace(env, seed=6), first)


def test_gymnasiums_checker_finds_nothing(kind: tuple[str, Disturbance]) -> None:
    env_id, disturbance = kind
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        env = make(env_id, [disturbance], 1)
        check_env(env, skip_render_check=True)
    harmless = re.compile(
        "Box observation space m|not within the observation space|different from the unwrapped|symmetric and norm"
    )
    assert [str(warning.message) for warning in caught if not harmless.search(str(warning.message))] == []


# What each does -----------------------------------------------------------------------------------------------------------


def test_sensor_noise_has_its_size_and_leaves_the_dynamics_alone() -> None:
    noisy, plain = (
        trace(make("CartPole-v1", [Disturbance([0], sensor_noise=0.01)]), steps=4),
        trace(gym.make("CartPole-v1"), steps=4),
    )
    assert np.array_equal(rewards(noisy), rewards(plain))
    assert observations(noisy).dtype == np.float32
    env = make("Pendulum-v1", [Disturbance([0], sensor_noise=0.3)])
    difference = np.concatenate(
        [
            observations(trace(env, seed, 150))[:, 2] - observations(trace(gym.make("Pendulum-v1"), seed, 150))[:, 2]
            for seed in range(8)
        ]
    )
    inner = difference[np.abs(difference) < 2]
    assert inner.mean() == pytest.approx(0, abs=0.05)
    assert inner.std() == pytest.approx(0.3, rel=0.1)


def test_noisy_sensors_stay_within_their_range() -> None:
    env = make("Pendulum-v1", [Disturbance([0], sensor_noise=5.0)])
    found = observations(trace(env, steps=50))
    assert all(env.observation_space.contains(observation) for observation in found)
    assert np.abs(found[:, 0]).max() == 1.0


def test_broken_sensors_are_independent_of_the_state() -> None:
    env = make("CartPole-v1", [Disturbance([0], broken_sensors=True)])
    one, other = (trace(env, steps=5, action=action) for action in (0, 1))
    assert np.array_equal(observations(one), observations(other))  # whatever the agent does
    assert np.ptp(observations(one)[:, 0]) > 1  # far beyond what the cart can do in five steps
    assert env.observation_space.contains(observations(one)[0])


class Shared(gym.Env[Any, int]):
    """Its spaces belong to the class, and it draws from them."""

    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,), np.float32), "b": spaces.Discrete(5)})
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action: int) -> Any:
        return self.observation_space.sample(), 1.0, False, False, {}


def test_broken_sensors_are_the_agents_own() -> None:
    """Two environments of one process, whose spaces are the same object, do not draw from each other's stream."""

    def draws(other_runs: bool) -> list[Any]:
        env, other = DisturbedSensors(Shared(), broken=True), DisturbedSensors(Shared(), broken=True)
        found = [env.reset(seed=1)[0]]
        if other_runs:
            other.reset(seed=2)
        for _ in range(5):
            found.append(env.step(0)[0])
            if other_runs:
                other.step(0)
        return [(observation["a"].tolist(), observation["b"]) for observation in found]

    assert draws(other_runs=False) == draws(other_runs=True)
    unseeded = [DisturbedSensors(Shared(), broken=True).reset()[0]["a"].tolist() for _ in range(2)]
    assert unseeded[0] != unseeded[1]


def test_scaled_rewards() -> None:
    env = make("Pendulum-v1", [Disturbance([0], reward_scale=-0.5)])
    np.testing.assert_allclose(rewards(trace(env)), -0.5 * rewards(trace(gym.make("Pendulum-v1"))))


def test_broken_rewards_are_standard_noise() -> None:
    found = rewards(trace(make("Pendulum-v1", [Disturbance([0], broken_reward=True)]), steps=190))
    plain = rewards(trace(gym.make("Pendulum-v1"), steps=190))
    assert found.mean() == pytest.approx(0, abs=0.25)
    assert found.std() == pytest.approx(1, rel=0.2)
    assert abs(np.corrcoef(found, plain)[0, 1]) < 0.25
    double = rewards(trace(make("Pendulum-v1", [Disturbance([0], broken_reward=True, reward_scale=2)]), steps=190))
    np.testing.assert_allclose(double, 2 * found)


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "LunarLanderContinuous-v3"])
def test_under_less_gravity_the_lander_falls_more_slowly(env_id: str) -> None:
    idle = 0 if env_id == "LunarLander-v3" else np.zeros(2, np.float32)
    speeds = {}
    for gravity in (-10.0, -5.0, -1.0):
        env = make(env_id, [Disturbance([0], env_kwargs={"gravity": gravity})])
        found = observations(trace(env, steps=20, action=idle))[:, 3]
        speeds[gravity] = found[-1] - found[0]  # vertical speed gained
    assert speeds[-10.0] < speeds[-5.0] < speeds[-1.0] < 0
    assert speeds[-10.0] / speeds[-5.0] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize("env_id", ["LunarLander-v3", "LunarLanderContinuous-v3"])
def test_wind_pushes_the_lander(env_id: str) -> None:
    idle = 0 if env_id == "LunarLander-v3" else np.zeros(2, np.float32)
    env = make(env_id, [Disturbance([0], env_kwargs={"enable_wind": True, "wind_power": 20.0, "turbulence_power": 0.0})])
    windy = observations(trace(env, steps=30, action=idle))
    still = observations(trace(make(env_id, []), steps=30, action=idle))
    assert abs(np.diff(windy[:, 2]) - np.diff(still[:, 2])).max() > 1e-3  # horizontal speed
    assert np.abs(np.diff(still[:, 2])).max() < 1e-3


def test_heavier_bodies_weigh_more_and_so_does_what_is_derived_from_them() -> None:
    light, heavy = gym.make("HalfCheetah-v5").unwrapped, make("HalfCheetah-v5", [Disturbance([0], mass_scale=3.0)]).unwrapped
    for name in ("body_mass", "body_inertia", "body_subtreemass"):
        np.testing.assert_allclose(getattr(heavy.model, name), 3 * getattr(light.model, name), err_msg=name)
    assert (heavy.model.body_invweight0[1:] < 0.9 * light.model.body_invweight0[1:]).all()
    forward = np.full(6, 0.5, np.float32)
    speeds = [np.abs(observations(trace(env, steps=1, action=forward))[-1][8:]).max() for env in (light, heavy)]
    assert speeds[1] < 0.8 * speeds[0]  # the same torque turns it less, though its joints stay as stiff


def test_attributes_reach_the_dynamics() -> None:
    """A push of twice the force gives the cart twice the speed; a name that is none is refused."""
    strong, gained = make("CartPole-v1", [Disturbance([0], attributes={"force_mag": 20.0})]), []
    for env in (strong, gym.make("CartPole-v1")):
        speeds = observations(trace(env, steps=1, action=1))[:, 1]
        gained.append(speeds[1] - speeds[0])
    assert gained[0] / gained[1] == pytest.approx(2, rel=0.05)
    with pytest.raises(ValueError, match="CartPole-v1 has no attribute 'force' that could differ"):
        make("CartPole-v1", [Disturbance([0], attributes={"force": 20.0})])


def test_episodes_without_end_go_on_where_the_next_begins() -> None:
    env, plain_env = make("CartPole-v1", [Disturbance([0], endless=True)]), gym.make("CartPole-v1")
    (before, _), (_, _) = env.reset(seed=0), plain_env.reset(seed=0)
    ends = 0
    for _ in range(100):
        observation, reward, terminated, truncated, _ = env.step(1)
        reached, _, ended, _, _ = plain_env.step(1)
        assert (reward, terminated, truncated) == (1.0, False, False)
        if ended:
            reached, _ = plain_env.reset()
            ends += 1
            assert np.abs(observation).max() <= 0.05  # where CartPole begins
        np.testing.assert_array_equal(observation, reached)
    assert ends > 5
    assert before.shape == (4,)


def test_two_disturbances_of_one_agent_add_up() -> None:
    disturbances = [
        Disturbance([0], env_kwargs={"gravity": -5.0}, reward_scale=2.0),
        Disturbance([0], env_kwargs={"gravity": -1.0, "enable_wind": True}, reward_scale=3.0),
    ]
    env: Any = make("LunarLander-v3", disturbances, env_kwargs={"gravity": -9.0, "wind_power": 7.0}).unwrapped
    assert (env.gravity, env.enable_wind, env.wind_power) == (-1.0, True, 7.0)
    scaled = make("Pendulum-v1", [Disturbance([0], reward_scale=2.0), Disturbance([0], reward_scale=3.0)])
    np.testing.assert_allclose(rewards(trace(scaled)), 6 * rewards(trace(gym.make("Pendulum-v1"))))
    masses: Any = make("HalfCheetah-v5", [Disturbance([0], mass_scale=2.0), Disturbance([0], mass_scale=0.5)]).unwrapped
    np.testing.assert_allclose(masses.model.body_mass, gym.make("HalfCheetah-v5").unwrapped.model.body_mass)  # type: ignore[attr-defined]


def test_two_noises_are_independent() -> None:
    """As one whose variance is the sum of theirs, not twice the same."""
    once, twice = (make("MountainCarContinuous-v0", [Disturbance([0], sensor_noise=1e-3)] * number) for number in (1, 2))
    plain = observations(trace(gym.make("MountainCarContinuous-v0"), steps=900))[:, 0]
    spread = [(observations(trace(env, steps=900))[:, 0] - plain).std() for env in (once, twice)]
    assert spread[1] / spread[0] == pytest.approx(2**0.5, rel=0.1)


def test_settings_of_all_agents_reach_the_others() -> None:
    env: Any = make("LunarLander-v3", [Disturbance([1], env_kwargs={"gravity": -1.0})], env_kwargs={"gravity": -4.0}).unwrapped
    assert env.gravity == -4.0


def test_without_a_disturbance_there_is_no_wrapper() -> None:
    env = make("CartPole-v1", [Disturbance([0], sensor_noise=0.0, reward_scale=1.0, mass_scale=1.0)])
    assert not isinstance(env, DisturbedSensors | DisturbedReward)


# Errors -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"agents": []}, "agents must be numbers >= 0 of those concerned, got []"),
        ({"agents": [-1]}, "agents must be numbers >= 0 of those concerned, got [-1]"),
        ({"agents": ["0"]}, "agents must be numbers >= 0 of those concerned"),
        ({"agents": 1}, "agents must be numbers >= 0 of those concerned, got 1"),
        ({"mass_scale": 0}, "mass_scale must be a finite number > 0, got 0"),
        ({"mass_scale": float("inf")}, "mass_scale must be a finite number > 0, got inf"),
        ({"mass_scale": "2"}, "mass_scale must be a finite number > 0, got '2'"),
        ({"sensor_noise": -0.1}, "sensor_noise must be a finite number >= 0, got -0.1"),
        ({"sensor_noise": float("nan")}, "sensor_noise must be a finite number >= 0, got nan"),
        ({"reward_scale": float("nan")}, "reward_scale must be a finite number, got nan"),
        ({"broken_sensors": "no"}, "broken_sensors must be True or False, got 'no'"),
        ({"broken_reward": 1}, "broken_reward must be True or False, got 1"),
        ({"sensor_noise": 0.5, "broken_sensors": True}, "sensor_noise=0.5 does nothing where broken_sensors=True"),
        ({"env_kwargs": "x"}, "env_kwargs must be a mapping, got 'x'"),
        ({"attributes": 3}, "attributes must be a mapping, got 3"),
        ({"endless": "yes"}, "endless must be True or False, got 'yes'"),
    ],
)
def test_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Disturbance(**{"agents": [0], **settings})


def test_agents_out_of_range() -> None:
    Disturbance(range(3)).check(3)
    with pytest.raises(ValueError, match="agent 2 cannot be disturbed: agents are numbered 0 to 1"):
        Disturbance(range(3)).check(2)


def test_disturbances_that_do_not_fit_the_environment() -> None:
    with pytest.raises(ValueError, match="mass_scale needs one of MuJoCo's environments, got CartPole-v1"):
        make("CartPole-v1", [Disturbance([0], mass_scale=2.0)])
    with pytest.raises(
        ValueError, match=r"sensor_noise needs observations in a Box of floats, got Discrete\(16\); broken_sen"
    ):
        make("FrozenLake-v1", [Disturbance([0], sensor_noise=1.0)])
    assert make("FrozenLake-v1", [Disturbance([0], broken_sensors=True)]).reset(seed=0)[0] in range(16)


def test_numbers_of_numpy_are_numbers() -> None:
    assert list(Disturbance(agents=np.arange(2), mass_scale=np.float32(2)).agents) == [0, 1]
