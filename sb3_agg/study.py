"""A study's runner for Stable-Baselines3: its algorithms with rollouts or a replay buffer, stock or not. Axis A: agents."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from stable_baselines3.common import utils
from stable_baselines3.common.atari_wrappers import EpisodicLifeEnv
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import is_wrapped, make_vec_env
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import ActionNoise, NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rl_agg import validation
from rl_agg.network_sizes import hidden_layers
from rl_agg.study.analysis.records import CellUpdate
from rl_agg.study.errors import StudyError
from rl_agg.study.run.cells import arguments, building, check_settings, check_types, import_system, wrapped
from rl_agg.study.run.runners import OnUpdate
from rl_agg.study.spec.study import Budget, Cell
from rl_agg.validation import unknown_choice
from sb3_agg.mixin import AggregationMixin
from sb3_agg.networks import network
from sb3_agg.off_policy.mixin import OffPolicyAggregationMixin
from sb3_agg.rollouts.returns import RolloutReturns
from sb3_agg.vec_envs.disturbed import DisturbedVecEnv
from sb3_agg.vec_envs.envpool import EnvPoolVecEnv
from sb3_agg.vec_envs.normalize import AgentVecNormalize
from sb3_agg.vec_envs.unequal import make_unequal_vec_env

LINEAR: Any = getattr(utils, "LinearSchedule", None) or utils.get_linear_fn  # the older one, before SB3 2.7
SCHEDULED = ("learning_rate", "clip_range", "clip_range_vf")
CLASSES: dict[str, tuple[ModuleType, type]] = {
    "activation_fn": (torch.nn, torch.nn.Module),
    "optimizer_class": (torch.optim, torch.optim.Optimizer),
}
"""Policy settings that YAML gives by name, as ``Tanh`` or ``torch.optim.SGD``."""
RESERVED = {"env": "environments", "policy": "policy", "seed": "seeds", "tensorboard_log": "--tensorboard"}
"""Arguments that the study itself sets, and its key for each."""
DEFAULT_POLICY = "MlpPolicy"
UNLIMITED_STEPS = sys.maxsize
ENVPOOL = "envpool/"
"""Prefix of the ids of EnvPool's environments."""
NOISES: dict[str, type[ActionNoise]] = {"normal": NormalActionNoise, "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise}
"""Action noises by the Zoo's names."""
RECORDED_STEPS = 1000
"""Environment steps, at least, between two records of an algorithm with a replay buffer, whose updates follow each step."""

SomeAlgorithm = OnPolicyAlgorithm | OffPolicyAlgorithm


class Sb3Runner:
    """Runs Stable-Baselines3's on-policy and off-policy algorithms; see :class:`~rl_agg.study.run.runners.Runner`."""

    packages = ("stable-baselines3", "sb3-contrib", "mujoco", "box2d")

    def check(self, cell: Cell) -> None:
        """Raise on other algorithms and unknown settings, then build the model once and drop it.

        :raises StudyError: naming the system, the environment and the reason.
        """
        cls = import_system(cell)
        if not issubclass(cls, SomeAlgorithm):
            raise StudyError(
                f"system {cell.system_name!r}: {cls.__name__} has neither rollouts nor a replay buffer, in which agents could "
                "be told apart; choose a class such as PPO, SAC, sb3_agg:AggPPO or sb3_agg:AggSAC"
            )
        settings = {**cell.environment.settings, **cell.system.settings}
        known = arguments(cls, "__init__")
        check_settings(cell, RESERVED, unused=())
        for name in settings:
            if name not in known:
                raise StudyError(f"{cell}: {unknown_choice(f'{cls.__name__} setting', name, known - RESERVED.keys())}")
        check_types(f"{cell}: ", cls, settings, ["batch_size"] if issubclass(cls, AggregationMixin) else ())
        if (policy := _policy(cell)) not in cls.policy_aliases:
            raise StudyError(f"{cell}: {unknown_choice('policy', policy, cls.policy_aliases)}")
        with building(cell):
            if "n_epochs" in settings:
                validation.check_count("n_epochs", settings["n_epochs"], least=1)
            env = _environment(cell)
            try:
                _model(cell, env)
            finally:
                env.close()

    def bundles(self, cell: Cell) -> list[dict[str, float]]:
        """One CPU."""
        return [{"CPU": 1.0}]

    def run(self, cell: Cell, on_update: OnUpdate) -> list[CellUpdate]:
        """Train for the cell's budget."""
        torch.set_num_threads(1)
        env = _environment(cell)
        try:
            model = _model(cell, env)
            model.set_logger(Logger(folder=None, output_formats=[]))
            recorder = _Recorder(cell.budget, on_update, cell.environment.scored_agents)
            if cell.budget.env_steps is None:
                _schedule_by_budget(model, recorder)
            model.learn(cell.budget.env_steps or UNLIMITED_STEPS, callback=recorder, log_interval=1)
            return recorder.updates
        finally:
            env.close()


class _Recorder(BaseCallback):
    """Keeps one :class:`CellUpdate` for each rollout, and stops training once the budget is used up.

    A rollout before an update from a replay buffer may be one step, so that there a record is of several.
    """

    def __init__(self, budget: Budget, on_update: OnUpdate, scored_agents: list[int] | None) -> None:
        super().__init__()
        self._scored = slice(None) if scored_agents is None else scored_agents
        self.updates: list[CellUpdate] = []
        self._budget = budget
        self._on_update = on_update

    def fraction(self) -> float:
        """Fraction of the budget that the rollouts collected so far have used up, in [0, 1]."""
        return self._budget.used(self._collected, self.num_timesteps, time.perf_counter() - self._start)

    def _on_training_start(self) -> None:
        self._start = time.perf_counter()
        self._collected = self._recorded = 0
        self._rollouts_of_record = _rollouts_of_record(self.model)
        self._rollout: RolloutReturns | None = None
        self._returns = np.full(self.training_env.num_envs, np.nan)  # [A], last known

    def _on_rollout_start(self) -> None:
        self._close_update(self._rollouts_of_record)
        # SB3 lets a callback stop only after a step, so one step of each agent is discarded
        self._is_over = self._budget.env_steps is None and self.fraction() >= 1
        if self._rollout is None:
            self._rollout = RolloutReturns(self.training_env.num_envs, only_reported=True)

    def _on_step(self) -> bool:
        if self._is_over:
            return False
        assert self._rollout is not None
        self._rollout.add(self.locals["infos"], self.locals["dones"])
        return True

    def _on_rollout_end(self) -> None:
        assert self._rollout is not None
        self._collected, self._steps = self._collected + 1, self.num_timesteps
        self._returns = self._rollout.means(self._returns)

    def _on_training_end(self) -> None:
        self._close_update(1)

    def _close_update(self, rollouts: int) -> None:
        """Record the last rollouts once their training is over, when the time and the weights are known.

        :param rollouts: How many there must be.
        """
        if self._rollout is None or self._collected - self._recorded < rollouts:
            return
        scored = self._returns[self._scored]
        known = scored[np.isfinite(scored)]
        if isinstance(self.model, OffPolicyAggregationMixin):  # which logs when episodes end
            self.model.record_agents()
        values = self.logger.name_to_value
        update = CellUpdate(
            update=self._collected,
            env_steps=self._steps,
            wall_time=time.perf_counter() - self._start,
            mean_return=float(known.mean()) if known.size else math.nan,
            episodes=int(self._rollout.num_episodes.sum()),
            agent_returns=self._returns.tolist(),
            scalars={name: float(value) for name, value in values.items() if name.startswith("agg/")},
        )
        self.updates.append(update)
        self._recorded, self._rollout = self._collected, None
        self._on_update(update, self.fraction())


def _rollouts_of_record(model: Any) -> int:
    frequency = getattr(model, "train_freq", None)  # of those with a replay buffer
    if not isinstance(frequency, TrainFreq) or frequency.unit is not TrainFrequencyUnit.STEP:
        return 1
    rollouts: int = math.ceil(RECORDED_STEPS / (frequency.frequency * model.n_envs))
    return rollouts


def _schedule_by_budget(model: SomeAlgorithm, recorder: _Recorder) -> None:
    """Let schedules follow the budget; the number of steps is not known where rollouts vary in length (``min_episodes``)."""

    def update_progress(num_timesteps: int, total_timesteps: int) -> None:
        model._current_progress_remaining = 1.0 - recorder.fraction()

    vars(model)["_update_current_progress_remaining"] = update_progress


def _environment(cell: Cell) -> VecEnv:
    environment = cell.environment
    assert environment.id is not None  # a resolved study has it
    num_agents, env_kwargs = environment.num_agents or 1, environment.env_kwargs
    env: VecEnv
    if environment.id.startswith(ENVPOOL):
        if environment.wrappers:
            raise ValueError(f"{environment.id} steps in C++ and supports no wrappers; leave out {ENVPOOL!r}")
        env = EnvPoolVecEnv(environment.id.removeprefix(ENVPOOL), num_agents, seed=cell.seed, env_kwargs=env_kwargs)
        if environment.unequal:
            env = DisturbedVecEnv(env, environment.unequal, seed=cell.seed)
    else:
        make = partial(make_unequal_vec_env, disturbances=environment.unequal) if environment.unequal else make_vec_env
        wrapper = partial(_wrapped, cell) if environment.wrappers else None
        env = make(environment.id, n_envs=num_agents, seed=cell.seed, env_kwargs=env_kwargs, wrapper_class=wrapper)
    if environment.normalize not in (None, False):  # no arguments are the wrapper's own
        chosen = dict(environment.normalize) if isinstance(environment.normalize, dict) else {}
        validation.check_settings("normalize", VecNormalize, chosen, given=1, also=("per_agent",))
        check_types("normalize.", VecNormalize, chosen)
        per_agent = chosen.pop("per_agent", False)
        validation.check_flag("normalize.per_agent", per_agent)
        if per_agent and not chosen.get("norm_reward", True):
            raise ValueError("normalize.per_agent has no effect with norm_reward: false; leave one out")
        if per_agent and num_agents > 1 and issubclass(import_system(cell), OffPolicyAlgorithm):
            raise ValueError(
                "normalize.per_agent needs rollouts: a replay buffer's samples do not say whose rewards they hold"
            )
        wrapper_class = AgentVecNormalize if per_agent else VecNormalize
        gamma = _settings(cell).get("gamma", 0.99)  # returns must be discounted as the algorithm does
        env = wrapper_class(env, **{"gamma": gamma, **chosen})
    return env


def _wrapped(cell: Cell, env: Monitor[Any, Any]) -> gym.Env[Any, Any]:
    outer = wrapped(cell, env)
    return outer if is_wrapped(outer, EpisodicLifeEnv) else _EpisodeEnds(outer, env)  # a life is no episode


class _EpisodeEnds(gym.Wrapper[Any, Any, Any, Any]):
    """Reports episodes that a wrapper ends, which Monitor, further inside, does not see."""

    def __init__(self, env: gym.Env[Any, Any], monitor: Monitor[Any, Any]) -> None:
        super().__init__(env)
        self._monitor = monitor

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if (terminated or truncated) and "episode" not in info:
            rewards = self._monitor.rewards
            info = {**info, "episode": {"r": float(sum(rewards)), "l": len(rewards)}}
        return observation, reward, terminated, truncated, info


def _model(cell: Cell, env: VecEnv) -> SomeAlgorithm:
    cls = import_system(cell)
    settings = {"device": "cpu", **_settings(cell)}
    if isinstance(settings.get("action_noise"), dict):
        settings["action_noise"] = _noise(settings["action_noise"], env)
    if policy := cls.policy_aliases.get(_policy(cell)):
        # Spaces and the learning rate are the algorithm's to give
        policy_kwargs = settings.get("policy_kwargs") or {}
        validation.check_settings("policy_kwargs", policy, policy_kwargs, given=3)
        check_types("policy_kwargs.", policy, policy_kwargs)
    model: SomeAlgorithm = cls(_policy(cell), env, seed=cell.seed, **settings)
    return model


def _noise(given: dict[str, Any], env: VecEnv) -> ActionNoise:
    kind, std = given.get("type"), given.get("std")
    if given.keys() != {"type", "std"} or kind not in NOISES or isinstance(std, bool) or not isinstance(std, int | float):
        raise StudyError(f"action_noise must be {{type: {' or '.join(NOISES)}, std: NUMBER}}, got {given!r}")
    size = env.action_space.shape or ()
    noise: ActionNoise = NOISES[kind](mean=np.zeros(size), sigma=std * np.ones(size))  # type: ignore[call-arg]
    return noise


def _policy(cell: Cell) -> str:
    return cell.system.policy or cell.environment.policy or DEFAULT_POLICY


def _settings(cell: Cell) -> dict[str, Any]:
    """The constructor's arguments: the network, then the environment's settings, then the system's."""
    layers = [cell.environment.settings, cell.system.settings]
    settings = {name: value for layer in layers for name, value in layer.items()}
    policy_kwargs = _network(import_system(cell), cell.environment.network) if cell.environment.network else {}
    for layer in layers:
        policy_kwargs.update(layer.get("policy_kwargs") or {})
    for name, kind in CLASSES.items():
        if isinstance(policy_kwargs.get(name), str):
            policy_kwargs[name] = _class(name, policy_kwargs[name], *kind)
    if policy_kwargs:
        settings["policy_kwargs"] = policy_kwargs
    for name in SCHEDULED:
        if isinstance(settings.get(name), str):
            settings[name] = _schedule(name, settings[name])
    return settings


def _network(cls: type[Any], size: str) -> dict[str, Any]:
    """Networks of a size, as an algorithm's ``policy_kwargs``."""
    if not issubclass(cls, OffPolicyAlgorithm):
        return network(size)
    layers = hidden_layers(size)
    return {"net_arch": layers if issubclass(cls, DQN | QRDQN) else {"pi": layers, "qf": layers}}


def _schedule(name: str, text: str) -> Callable[[float], float]:
    kind, _, start = text.partition("_")
    try:
        if kind == "lin":
            linear: Callable[[float], float] = LINEAR(float(start), 0.0, 1.0)
            return linear
    except ValueError:
        pass
    raise StudyError(f"{name} must be a number or 'lin_' and a number, got {text!r}")


def _class(name: str, text: str, module: ModuleType, base: type) -> type:
    prefix, _, short = text.rpartition(".")
    found = getattr(module, short, None)
    prefixes = ("", module.__name__, module.__name__.removeprefix("torch."))
    if prefix in prefixes and isinstance(found, type) and issubclass(found, base):
        return found
    raise StudyError(f"{name} must be a class of {module.__name__}, got {text!r}")
