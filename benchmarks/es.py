"""Evolution strategies alongside evotorch's and sb3-contrib's ARS, in environment steps per second of wall time.

Same environment, network, population and parameters: on CartPole those of a policy that was trained here until it balances, so
that episodes are long; on Ant zeros, for 200 steps. Step sizes are so small that parameters stay. Systems take turns in every
repeat. ``stepping alone`` is the environment without any policy, in the fastest way that one process has.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import ray
import record
import torch
from numpy.typing import NDArray
from sb3_contrib import ARS
from stable_baselines3.common.env_util import make_vec_env

from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.population import open_environments
from rl_agg.seeding import stream
from rllib_agg import ESConfig

PEER = Path(__file__).parent / "peers" / "es_evotorch.py"
NOISE, STILL = 0.02, 1e-9
STEPS = "num_env_steps_sampled_lifetime"


@dataclass(frozen=True)
class Task:
    """What is run.

    :param hidden: Size of the two hidden layers.
    :param max_episode_steps: Instead of the environment's own.
    """

    env: str
    hidden: int
    generations: int
    max_episode_steps: int | None = None

    @property
    def make_kwargs(self) -> dict[str, Any]:
        """Arguments of ``gymnasium.make``."""
        return {} if self.max_episode_steps is None else {"max_episode_steps": self.max_episode_steps}

    def evaluator(self) -> PopulationEvaluator:
        """Ours."""
        return PopulationEvaluator(open_environments(self.env, self.make_kwargs), hidden=(self.hidden, self.hidden))


TASKS = {"cartpole": Task("CartPole-v1", 8, 20), "ant": Task("Ant-v5", 64, 2, max_episode_steps=200)}
Rate = tuple[int, float]
"""Steps and seconds."""


def start_parameters(task: Task) -> NDArray[np.float32]:
    """Zeros, or on CartPole what balances for 500 steps."""
    evaluator = task.evaluator()
    if task.env != "CartPole-v1":
        return np.zeros(evaluator.network.num_parameters, dtype=np.float32)
    settings = EvolutionSettings(population=50, noise_stdev=0.1, lr=0.03)
    strategy = EvolutionStrategy(evaluator.network.initial(stream("start", 0)), run=0, settings=settings)
    agents = EvolutionAgents(evaluator, settings)
    for _ in range(300):
        report = agents.run(strategy.broadcast(), np.arange(51))
        strategy.receive(report)
        if report.returns.min() == 500:
            return strategy.theta
    raise RuntimeError("CartPole was not learned")


def core(task: Task, theta: NDArray[np.float32], population: int) -> Callable[[], Rate]:
    """Our core in this process."""
    settings = EvolutionSettings(population=population, noise_stdev=NOISE, lr=STILL, l2_coeff=0.0)
    strategy, agents = EvolutionStrategy(theta, run=1, settings=settings), EvolutionAgents(task.evaluator(), settings)
    everyone = np.arange(population + 1)

    def turn() -> Rate:
        steps, start = 0, time.perf_counter()
        for _ in range(task.generations):
            report = agents.run(strategy.broadcast(), everyone)
            strategy.receive(report)
            steps += int(report.lengths.sum())
        return steps, time.perf_counter() - start

    return turn


def rllib(task: Task, theta: NDArray[np.float32], population: int, num_env_runners: int) -> Callable[[], Rate]:
    """ESConfig, one update in each ``train()``."""
    config = ESConfig().environment(task.env, env_config=task.make_kwargs).env_runners(num_env_runners=num_env_runners)
    config.rl_module(model_config={"fcnet_hiddens": [task.hidden, task.hidden]})
    config.training(population=population, noise_stdev=NOISE, lr=STILL, l2_coeff=0.0).debugging(seed=1)
    algorithm = config.build_algo()
    algorithm.module.write(theta, None)
    algorithm.train()

    def turn() -> Rate:
        before, start = algorithm.metrics.peek(("env_runners", STEPS)), time.perf_counter()
        for _ in range(task.generations):
            algorithm.train()
        return int(algorithm.metrics.peek(("env_runners", STEPS)) - before), time.perf_counter() - start

    return turn


def ars(task: Task, theta: NDArray[np.float32], population: int) -> Callable[[], Rate]:
    """sb3-contrib's augmented random search, without its observation normalisation."""
    env = make_vec_env(task.env, 1, env_kwargs=task.make_kwargs, seed=0)
    network = {"net_arch": [task.hidden, task.hidden], "activation_fn": torch.nn.Tanh}
    model = ARS("MlpPolicy", env, n_delta=population // 2, learning_rate=STILL, delta_std=NOISE, policy_kwargs=network)
    model.policy.load_from_vector(theta.astype(np.float64))
    model.weights = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()

    def turn() -> Rate:
        start = time.perf_counter()
        model.learn(1)  # one generation: it ends with the first update that reaches the steps asked for
        return int(model.num_timesteps), time.perf_counter() - start

    return turn


def evotorch(task: Task, theta: Path, population: int, python: str, mode: str) -> Callable[[], Rate]:
    """evotorch's PGPE, in an interpreter of its own."""
    command = [python, str(PEER), mode, "--env", task.env, "--hidden", str(task.hidden), "--population", str(population)]
    command += ["--generations", str(max(2, task.generations // 4)), "--theta", str(theta)]
    if task.max_episode_steps is not None:
        command += ["--max-episode-steps", str(task.max_episode_steps)]

    def turn() -> Rate:
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        printed = json.loads(run.stdout.splitlines()[-1])
        return printed["steps"], printed["seconds"]

    return turn


def stepping(task: Task, population: int) -> Callable[[], Rate]:
    """The environment alone."""
    if task.env == "CartPole-v1":
        env: Any = gym.make_vec(task.env, num_envs=population, vectorization_mode="vector_entry_point")
        action, size, steps = np.zeros(population, dtype=np.int64), population, 2000
    else:
        env = gym.make(task.env, disable_env_checker=True, **task.make_kwargs)
        action, size, steps = np.zeros(env.action_space.shape), 1, 2000

    def turn() -> Rate:
        env.reset(seed=0)
        start = time.perf_counter()
        for _ in range(steps):
            _, _, terminated, truncated, _ = env.step(action)
            if size == 1 and (terminated or truncated):
                env.reset()
        return steps * size, time.perf_counter() - start

    return turn


def compare(name: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Take turns."""
    task, population = TASKS[name], options.population
    theta = start_parameters(task)
    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "theta.npy"
        np.save(saved, theta)
        systems = {
            "stepping alone": stepping(task, population),
            "rl_agg": core(task, theta, population),
            "rllib_agg": rllib(task, theta, population, 0),
            f"rllib_agg, {options.env_runners} runners": rllib(task, theta, population, options.env_runners),
            "sb3-contrib ARS": ars(task, theta, population),
        }
        if options.evotorch_python:
            for mode in ("vector", "actors"):
                systems[f"evotorch, {mode}"] = evotorch(task, saved, population, options.evotorch_python, mode)
        rates: dict[str, list[float]] = {system: [] for system in systems}
        lengths: dict[str, float] = {}
        for repeat in range(options.repeats + 1):
            for system, turn in systems.items():
                steps, seconds = turn()
                lengths[system] = steps
                if repeat:  # the first round warms up
                    rates[system].append(steps / seconds)
                    print(f"{name}, {system}: {steps / seconds:.0f} steps/s", flush=True)
    medians = {system: statistics.median(values) for system, values in rates.items()}
    return [
        {
            "environment": task.env,
            "population": population,
            "system": system,
            "repeats": options.repeats,
            "steps_in_a_turn": int(lengths[system]),
            "steps_per_second": round(medians[system]),
            "steps_per_second_min": round(min(rates[system])),
            "steps_per_second_max": round(max(rates[system])),
            "share_of_stepping_alone": round(medians[system] / medians["stepping alone"], 3),
            "rl_agg_over_it": round(medians["rl_agg"] / medians[system], 2),
        }
        for system in systems
    ]


def main(arguments: list[str]) -> None:
    """Measure and write ``results/es.csv``."""
    parser = argparse.ArgumentParser(prog="run.py es", description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--population", type=int, default=50)
    parser.add_argument("--env-runners", type=int, default=2)
    parser.add_argument("--evotorch-python", help="a Python that has evotorch, numpy, torch and gymnasium")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    ray.init(num_cpus=4 + options.env_runners, include_dashboard=False, log_to_driver=False)
    rows = [row for name in options.tasks for row in compare(name, options)]
    record.write("es", rows, ["rl-agg", "ray", "torch", "gymnasium", "numpy", "sb3-contrib"])
