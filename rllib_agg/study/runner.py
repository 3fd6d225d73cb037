"""A study's runner for RLlib: any algorithm of its new API stack, stock or with aggregation. Axis A: agents.

An update is one ``train()``: for PPO a rollout and the training after it, for asynchronous algorithms an iteration.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping
from types import NoneType
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.env_context import EnvContext
from ray.rllib.utils import force_list
from ray.tune.registry import register_env

from rl_agg.envs.disturbances import as_disturbances
from rl_agg.network_sizes import hidden_layers
from rl_agg.study.run.cells import check_settings, check_type, extend_path, import_system, wrapped
from rl_agg.study.spec.study import Cell
from rl_agg.validation import check_number, unknown_choice
from rllib_agg.aggregation.agents import agent_number
from rllib_agg.envs.unequal_envs import UnequalEnvs
from rllib_agg.server_loop.config import RLLIB_MODEL
from rllib_agg.study.base import STEPS, AlgorithmRunner, Observed, Observer, agg_scalars

RESERVED = {
    "env": "environments",
    "env_config": "env_kwargs",
    "seed": "seeds",
    "num_envs_per_env_runner": "num_agents",
    "callbacks_class": "systems",
}
"""Settings that the study itself makes, and its key for each."""
UNUSED = ("normalize", "policy")
"""Keys of a study that RLlib's algorithms do not use."""

KINDS: dict[type, tuple[Any, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, list, NoneType),
    dict: (dict,),
}
"""By the type of a setting's default, the types that it may have: a number may be a schedule, or switched off."""
ALSO: dict[str, tuple[Any, ...]] = {
    "minibatch_size": (NoneType,),
    "n_step": (list,),
    "evaluation_duration": (str,),
    "interval": (str,),
    "policies": (list,),
}
"""Other types that settings may have."""
GONE = -1
"""RLlib's mark of settings that are no longer any."""

RAW_RETURN = "rl_agg_raw_return"
AGENTS, RETURNS = "agents", "returns"
STUDY = "study"


class RllibRunner(AlgorithmRunner):
    """Runs RLlib's algorithms, with their workers if they have any.

    Settings are attributes of the algorithm's config. The environment's ``num_agents`` are spread evenly over the env runners,
    of which there are none but the cell's own process unless a setting says so.
    """

    def check_keys(self, cell: Cell) -> None:
        """Raise on settings that are not a cell's to make."""
        check_settings(cell, RESERVED, UNUSED)

    def bundles(self, cell: Cell) -> list[dict[str, float]]:
        """One CPU for the algorithm, and what its env runners and learners ask for."""
        factory = import_system(cell).default_resource_request(self.config(cell))
        return [dict(bundle) for bundle in factory.bundles]

    def observer(self, cell: Cell) -> Observer:
        """One that remembers each agent's last return."""
        return _Observer(cell)

    def config(self, cell: Cell) -> Any:
        """The algorithm's config, with an environment registered for the cell."""
        environment = cell.environment
        config = import_system(cell).get_default_config().env_runners(num_env_runners=0)  # unless the settings say more
        settings = {**environment.settings, **cell.system.settings}
        if "model" in settings:
            raise ValueError("'model' is of RLlib's old API stack and not read here; give 'model_config'")
        _check_types(config, settings)
        layers: dict[str, Any] = {}
        if environment.network:
            layers = {
                "fcnet_hiddens": hidden_layers(environment.network),
                "fcnet_activation": "tanh",
                "vf_share_layers": False,
            }
        layers.update(settings.pop("model_config", {}))
        if layers:
            _check_model(config, layers)
            config.rl_module(model_config={**config.model_config, **layers})
        known = set(vars(config))
        config.update_from_dict(settings)
        for name in sorted(set(vars(config)) - known):  # which RLlib would keep and never read
            raise unknown_choice(f"setting of {type(config).__name__}", name, _public(config, known))
        num_agents, runners = environment.num_agents or 1, max(1, config.num_env_runners)
        if num_agents % runners:
            raise ValueError(f"num_agents={num_agents} cannot be spread evenly over num_env_runners={runners}")
        creator = _creator(cell, num_agents // runners)
        creator(EnvContext({}, worker_index=0)).close()
        name = f"rl-agg {cell.id}"
        register_env(name, creator)
        config.environment(name).debugging(seed=cell.seed).env_runners(num_envs_per_env_runner=num_agents // runners)
        config.callbacks_class = [*force_list(config.callbacks_class), EpisodeReturns]
        return config


def _check_types(config: Any, settings: Mapping[str, Any]) -> None:
    """Raise if a setting is of another type than its default, or a count is negative."""
    for name, value in settings.items():
        default = getattr(config, name, None)
        kinds = KINDS.get(type(default), ())
        if not kinds or default == GONE:
            continue
        also = (float,) if name.startswith(("num_cpus_", "num_gpus")) else ALSO.get(name, ())
        check_type(name, value, (*kinds, *also))
        if name.startswith("num_"):
            check_number(name, value, least=0)


def _public(config: Any, names: Collection[str]) -> set[str]:
    """Those of a config's attributes that are settings, by the names under which they are set."""
    found = {name.removeprefix("_") for name in names if getattr(config, name, None) != GONE}
    return {name for name in found if hasattr(config, name)}


def _check_model(config: Any, settings: Mapping[str, Any]) -> None:
    """Raise if RLlib's modules would keep a setting and never read it; a module of the user's own may read any."""
    module = config.get_default_rl_module_spec().module_class.__module__
    known = {**RLLIB_MODEL, **config.model_config}
    for name in settings:
        if module.startswith(("ray.rllib.", "rllib_agg.")) and name not in known:
            raise unknown_choice("model_config", name, known)


class _Observer:
    """Reads the result of each ``train()``."""

    def __init__(self, cell: Cell) -> None:
        scored = cell.environment.scored_agents
        self._scored = slice(None) if scored is None else scored
        self._returns = np.full(cell.environment.num_agents or 1, np.nan)  # [A], last known
        self._env_steps = 0

    def __call__(self, algorithm: Any, result: Mapping[str, Any]) -> Observed:
        runners = result.get("env_runners", {})
        logged = runners.get(STUDY, {})  # empty where no episode has ended
        agents, returns = (np.atleast_1d(logged.get(name, [])) for name in (AGENTS, RETURNS))  # RLlib unwraps a list of one
        for agent in np.unique(agents):
            self._returns[agent] = returns[agents == agent].mean()
        known = self._returns[self._scored]
        known = known[np.isfinite(known)]
        self._env_steps = int(runners.get(STEPS, self._env_steps))
        mean_return = float(known.mean()) if known.size else float("nan")
        return Observed(self._env_steps, mean_return, len(returns), self._returns.tolist(), agg_scalars(result))


class EpisodeReturns(RLlibCallback):
    """Logs each episode's raw return and its agent."""

    def on_episode_end(
        self, *, episode: Any, env_runner: Any = None, metrics_logger: Any = None, env_index: int = 0, **kwargs: Any
    ) -> None:
        """Log both."""
        config = env_runner.config
        if config.in_evaluation:
            return
        agent = agent_number("sub_env", env_runner.worker_index, config.num_envs_per_env_runner, env_index)
        logged = {AGENTS: agent, RETURNS: float(episode.get_infos(-1)[RAW_RETURN])}
        for name, value in logged.items():
            metrics_logger.log_value((STUDY, name), value, reduce="item_series")


class _RawReturn(gym.Wrapper[Any, Any, Any, Any]):
    """Reports the sum of an episode's rewards so far, before other wrappers change them, whichever wrapper ends it."""

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._sum = 0.0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._sum += float(reward)
        return observation, reward, terminated, truncated, {**info, RAW_RETURN: self._sum}


def _creator(cell: Cell, num_envs_per_env_runner: int) -> Callable[[EnvContext], Any]:
    """The creator of a sub-environment."""
    environment = cell.environment
    disturbances = as_disturbances(environment.unequal)
    for disturbance in disturbances:
        disturbance.check(environment.num_agents or 1)
    unequal = UnequalEnvs(environment.id or "", disturbances, "sub_env", num_envs_per_env_runner, environment.env_kwargs)

    folders = list(sys.path)

    def create(context: EnvContext) -> Any:
        extend_path(folders)
        env = unequal(context) if disturbances else gym.make(unequal.env_id, **environment.env_kwargs)
        return wrapped(cell, _RawReturn(env))

    return create
