"""Environments that differ from agent to agent: in their dynamics, their sensors or their rewards.

Among equal agents one gradient is as good as another; with these disturbances a rule can make a difference. Those of
:data:`OF_THE_WORLD` change the environment itself, all others what the agent experiences of it, so that its returns are the
disturbed ones.
"""

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np

from rl_agg.validation import build, check_agents, check_agents_exist, check_flag, check_number

OF_THE_WORLD = ("env_kwargs", "attributes", "mass_scale")
"""Settings that change the environment itself."""


@dataclass(frozen=True)
class Disturbance:
    """A change for some agents.

    :param agents: The disturbed ones, numbers from 0 to A - 1.
    :param env_kwargs: Arguments of ``gymnasium.make``, such as LunarLander's ``gravity`` and ``enable_wind``.
    :param attributes: Attributes of the unwrapped environment, such as CartPole's ``gravity`` and ``force_mag``; what the
        environment has derived from them before stays as it is.
    :param mass_scale: Factor > 0 of every body's mass and inertia; MuJoCo's environments only.
    :param sensor_noise: Standard deviation >= 0 of Gaussian noise on every observation, in its own units; Box only. Noisy
        observations are clipped to the observation space.
    :param broken_sensors: Every observation is replaced by a random one of the observation space.
    :param reward_scale: Factor of the reward.
    :param broken_reward: The reward is replaced by standard Gaussian noise.
    :param endless: Episodes never end for the agent: where one does, the next begins without a sign, and no return is
        reported.
    :raises ValueError: if an agent is no number >= 0 or a value is out of range.
    """

    agents: Sequence[int]
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    mass_scale: float = 1.0
    sensor_noise: float = 0.0
    broken_sensors: bool = False
    reward_scale: float = 1.0
    broken_reward: bool = False
    endless: bool = False

    def __post_init__(self) -> None:
        check_agents(self.agents, "concerned")
        check_number("mass_scale", self.mass_scale, above=0)
        check_number("sensor_noise", self.sensor_noise, least=0)
        check_number("reward_scale", self.reward_scale)
        for name in ("broken_sensors", "broken_reward", "endless"):
            check_flag(name, getattr(self, name))
        for name in ("env_kwargs", "attributes"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a mapping, got {getattr(self, name)!r}")
        if self.sensor_noise and self.broken_sensors:
            raise ValueError(f"sensor_noise={self.sensor_noise!r} does nothing where broken_sensors=True; leave one out")

    def check(self, num_agents: int) -> None:
        """Raise if an agent index is out of range.

        :param num_agents: A.
        :raises ValueError: if an agent's number is A or larger.
        """
        check_agents_exist(self.agents, num_agents, "be disturbed")

    @property
    def of_the_world(self) -> list[str]:
        """Settings of :data:`OF_THE_WORLD` that were given."""
        usual = Disturbance(self.agents)
        return [name for name in OF_THE_WORLD if getattr(self, name) != getattr(usual, name)]


def as_disturbances(items: Iterable[Disturbance | Mapping[str, Any]]) -> tuple[Disturbance, ...]:
    """Turn settings into disturbances.

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
    :param disturbances: Those of this agent apply in their order.
    :param env_kwargs: Arguments of ``gymnasium.make`` for all agents.
    :raises ValueError: if a disturbance does not fit the environment.
    """
    own = [disturbance for disturbance in disturbances if agent in disturbance.agents]
    kwargs = dict(env_kwargs or {})
    for disturbance in own:
        kwargs |= disturbance.env_kwargs
    env = gym.make(env_id, **kwargs)
    for disturbance in own:
        _set_attributes(env, disturbance.attributes)
        if disturbance.mass_scale != 1.0:
            _scale_masses(env, disturbance.mass_scale)
        if disturbance.sensor_noise or disturbance.broken_sensors:
            env = DisturbedSensors(env, noise=disturbance.sensor_noise, broken=disturbance.broken_sensors)
        if disturbance.reward_scale != 1.0 or disturbance.broken_reward:
            env = DisturbedReward(env, scale=disturbance.reward_scale, broken=disturbance.broken_reward)
        if disturbance.endless:
            env = EndlessEpisodes(env)
    return env


class _Disturbed(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """A wrapper with random numbers of its own, seeded with the environment."""

    def __init__(self, env: gym.Env[Any, Any], **settings: Any) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, **settings)
        super().__init__(env)
        self.generator = np.random.default_rng()
        self._stream = _num_disturbances(env) + 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset; a seed seeds the disturbance too, in another stream than the environment and other disturbances."""
        if seed is not None:
            self.generator = np.random.default_rng([seed, self._stream])
        return self.env.reset(seed=seed, options=options)


class DisturbedSensors(_Disturbed):
    """Add noise to observations, or replace them.

    :param env: The environment.
    :param noise: Standard deviation, in the observation's own units.
    :param broken: Replace every observation by a random one of the space.
    :raises ValueError: if there is noise and the observations are not a Box of floats.
    """

    def __init__(self, env: gym.Env[Any, Any], *, noise: float = 0.0, broken: bool = False) -> None:
        super().__init__(env, noise=noise, broken=broken)
        space = env.observation_space
        if noise:
            check_noisy(space)
        self._noise, self._broken = noise, broken
        self._space: Any = copy.deepcopy(space)  # environments may share one, and with it its stream
        self._space.seed(None)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset, and return the disturbed observation."""
        observation, info = super().reset(seed=seed, options=options)
        if seed is not None:
            self._space.seed(int(self.generator.integers(2**31)))
        return self._disturb(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and return the disturbed observation."""
        observation, *rest = self.env.step(action)
        return (self._disturb(observation), *rest)

    def _disturb(self, observation: Any) -> Any:
        if self._broken:
            return self._space.sample()
        noisy = observation + self._noise * self.generator.standard_normal(np.shape(observation))
        return np.clip(noisy, self._space.low, self._space.high).astype(observation.dtype)


class DisturbedReward(_Disturbed):
    """Scale rewards, or replace them by standard Gaussian noise, which is scaled too.

    :param env: The environment.
    :param scale: Factor of the rewards.
    :param broken: Replace them.
    """

    def __init__(self, env: gym.Env[Any, Any], *, scale: float = 1.0, broken: bool = False) -> None:
        super().__init__(env, scale=scale, broken=broken)
        self._scale, self._broken = scale, broken

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and return the disturbed reward."""
        observation, reward, *rest = self.env.step(action)
        reward = self.generator.standard_normal() if self._broken else float(reward)
        return (observation, self._scale * reward, *rest)


class EndlessEpisodes(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Let an episode follow another without a sign that one has ended.

    :param env: The environment.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and reset where an episode is over."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:
            observation, info = self.env.reset()
        return observation, reward, False, False, info


def check_noisy(space: gym.Space[Any]) -> None:
    """Check that observations can be noisy.

    :raises ValueError: if they are not a Box of floats.
    """
    if not (isinstance(space, gym.spaces.Box) and np.issubdtype(space.dtype, np.floating)):
        raise ValueError(f"sensor_noise needs observations in a Box of floats, got {space}; broken_sensors fits any space")


def _set_attributes(env: gym.Env[Any, Any], attributes: Mapping[str, Any]) -> None:
    for name, value in attributes.items():
        if not hasattr(env.unwrapped, name):
            raise ValueError(f"{env.spec.id if env.spec else env} has no attribute {name!r} that could differ")
        setattr(env.unwrapped, name, value)


def _scale_masses(env: gym.Env[Any, Any], scale: float) -> None:
    model: Any = getattr(env.unwrapped, "model", None)
    if not hasattr(model, "body_mass"):
        raise ValueError(f"mass_scale needs one of MuJoCo's environments, got {env.spec.id if env.spec else env}")
    import mujoco

    model.body_mass[:] *= scale
    model.body_inertia[:] *= scale
    unwrapped: Any = env.unwrapped
    mujoco.mj_setConst(model, unwrapped.data)  # updates the constants derived from them


def _num_disturbances(env: gym.Env[Any, Any]) -> int:
    """Number of disturbances around an environment."""
    number = 0
    while isinstance(env, gym.Wrapper):
        number += isinstance(env, DisturbedSensors | DisturbedReward)
        env = env.env
    return number
