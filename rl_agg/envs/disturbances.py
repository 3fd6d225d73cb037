"""Environments that differ from agent to agent: in their dynamics, their sensors or their rewards.

Among equal agents one gradient is as good as another. These disturbances are where a rule can earn its keep. All but
``env_kwargs`` and ``mass_scale`` are what the agent experiences: a learner that is told returns is told the disturbed ones.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from rl_agg.validation import build, check_agents, check_agents_exist, check_flag, check_number


@dataclass(frozen=True)
class Disturbance:
    """What is different for some agents.

    :param agents: Whom it concerns, numbers from 0 to A - 1.
    :param env_kwargs: Arguments of ``gymnasium.make``, such as LunarLander's ``gravity`` and ``enable_wind``.
    :param mass_scale: > 0: every body's mass and inertia is multiplied by it; MuJoCo's environments only.
    :param sensor_noise: >= 0: standard deviation of Gaussian noise on every observation, in its own units; Box only. What
        would leave the observation space is clipped to it.
    :param broken_sensors: Every observation is replaced by a random one of the observation space.
    :param reward_scale: The reward is multiplied by it.
    :param broken_reward: The reward is replaced by standard Gaussian noise.
    :raises ValueError: if an agent is no number >= 0 or a value is out of range.
    """

    agents: Sequence[int]
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    mass_scale: float = 1.0
    sensor_noise: float = 0.0
    broken_sensors: bool = False
    reward_scale: float = 1.0
    broken_reward: bool = False

    def __post_init__(self) -> None:
        check_agents(self.agents, "concerned")
        check_number("mass_scale", self.mass_scale, above=0)
        check_number("sensor_noise", self.sensor_noise, least=0)
        check_number("reward_scale", self.reward_scale)
        check_flag("broken_sensors", self.broken_sensors)
        check_flag("broken_reward", self.broken_reward)
        if not isinstance(self.env_kwargs, Mapping):
            raise ValueError(f"env_kwargs must be a mapping, got {self.env_kwargs!r}")

    def check(self, num_agents: int) -> None:
        """Refuse agents that there are not.

        :param num_agents: A.
        :raises ValueError: if an agent's number is A or larger.
        """
        check_agents_exist(self.agents, num_agents, "be disturbed")


def as_disturbances(items: Iterable[Disturbance | Mapping[str, Any]]) -> tuple[Disturbance, ...]:
    """Make disturbances of settings.

    :raises ValueError: if an item is neither a disturbance nor its settings, or if a setting is unknown or out of range.
    """
    made = tuple(build("a disturbance", Disturbance, item) if isinstance(item, Mapping) else item for item in items)
    for item in made:
        if not isinstance(item, Disturbance):
            raise ValueError(f"a disturbance must be a Disturbance or its settings, got {item!r}")
    return made


def make_unequal_env(
    env_id: str, agent: int, disturbances: Sequence[Disturbance], env_kwargs: Mapping[str, Any] | None = None
) -> gym.Env[Any, Any]:
    """Make one agent's environment.

    :param env_id: Gymnasium's id.
    :param agent: Its number.
    :param disturbances: Those that do not concern it are left out; the others apply in their order.
    :param env_kwargs: Arguments of ``gymnasium.make`` for all agents.
    :raises ValueError: if a disturbance does not fit the environment.
    """
    own = [disturbance for disturbance in disturbances if agent in disturbance.agents]
    kwargs = dict(env_kwargs or {})
    for disturbance in own:
        kwargs |= disturbance.env_kwargs
    env = gym.make(env_id, **kwargs)
    for disturbance in own:
        if disturbance.mass_scale != 1.0:
            _scale_masses(env, disturbance.mass_scale)
        if disturbance.sensor_noise or disturbance.broken_sensors:
            env = DisturbedSensors(env, noise=disturbance.sensor_noise, broken=disturbance.broken_sensors)
        if disturbance.reward_scale != 1.0 or disturbance.broken_reward:
            env = DisturbedReward(env, scale=disturbance.reward_scale, broken=disturbance.broken_reward)
    return env


class DisturbedSensors(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Add noise to observations, or replace them.

    :param env: The environment.
    :param noise: Standard deviation, in the observation's own units.
    :param broken: Replace every observation by a random one of the space.
    :raises ValueError: if noise is asked for and the observations are not a Box of floats.
    """

    def __init__(self, env: gym.Env[Any, Any], *, noise: float = 0.0, broken: bool = False) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, noise=noise, broken=broken)
        super().__init__(env)
        space = env.observation_space
        if noise and not (isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)):
            raise ValueError(f"sensor_noise needs observations in a Box of floats, got {space}; broken_sensors fits any space")
        self._noise = noise
        self._broken = broken
        self._generator = np.random.default_rng()
        self._space = copy.deepcopy(space)  # environments may share theirs, and would draw from each other's stream
        self._space.seed(None)
        self._stream = _num_disturbances(env) + 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; a seed seeds the disturbance too."""
        if seed is not None:
            self._generator = np.random.default_rng([seed, self._stream])  # not the environment's own
            self._space.seed(int(self._generator.integers(2**31)))
        observation, info = self.env.reset(seed=seed, options=options)
        return self._read(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and read the disturbed sensors."""
        observation, *rest = self.env.step(action)
        return (self._read(observation), *rest)

    def _read(self, observation: Any) -> Any:
        if self._broken:
            return self._space.sample()
        space: Any = self._space
        noisy = observation + self._noise * self._generator.standard_normal(np.shape(observation))
        return np.clip(noisy, space.low, space.high).astype(observation.dtype)


class DisturbedReward(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Scale rewards, or replace them by standard Gaussian noise.

    :param env: The environment.
    :param scale: What rewards are multiplied by.
    :param broken: Replace them.
    """

    def __init__(self, env: gym.Env[Any, Any], *, scale: float = 1.0, broken: bool = False) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, scale=scale, broken=broken)
        super().__init__(env)
        self._scale = scale
        self._broken = broken
        self._generator = np.random.default_rng()
        self._stream = _num_disturbances(env) + 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; a seed seeds the disturbance too."""
        if seed is not None:
            self._generator = np.random.default_rng([seed, self._stream])
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and disturb the reward."""
        observation, reward, *rest = self.env.step(action)
        reward = self._generator.standard_normal() if self._broken else float(reward)
        return (observation, self._scale * reward, *rest)


def _scale_masses(env: gym.Env[Any, Any], scale: float) -> None:
    model: Any = getattr(env.unwrapped, "model", None)
    if not hasattr(model, "body_mass"):
        raise ValueError(f"mass_scale needs one of MuJoCo's environments, and {env.spec.id if env.spec else env} is none")
    import mujoco

    model.body_mass[:] *= scale
    model.body_inertia[:] *= scale
    unwrapped: Any = env.unwrapped
    mujoco.mj_setConst(model, unwrapped.data)  # what MuJoCo derives from them


def _num_disturbances(env: gym.Env[Any, Any]) -> int:
    """Those around an environment, each of which draws from a stream of its own."""
    number = 0
    while isinstance(env, gym.Wrapper):
        number += isinstance(env, DisturbedSensors | DisturbedReward)
        env = env.env
    return number
