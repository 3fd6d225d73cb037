"""What weighting costs alongside stock PPO, and what it saves compared with one backward per agent.

Every repeat runs all systems in turn in this process, stock PPO first and last; figures are CPU seconds on one torch thread,
and ratios are medians over repeats of a system's time over the mean of its repeat's two stock runs.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any

import record
import torch
from gymnasium import spaces
from limit import Limit
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

from rl_agg import Signals, weights
from sb3_agg import AggPPO
from sb3_agg.rollouts.losses import ppo_losses

RULES = ("mean", "r_weighted", "l_weighted")


class LoopPPO(PPO):
    """The plain way: one forward and one backward per agent and minibatch, then the L-weighted sum of k gradients."""

    def train(self) -> None:
        self.policy.set_training_mode(True)
        buffer, agents = self.rollout_buffer, self.n_envs
        parameters = list(self.policy.parameters())
        part = self.batch_size // agents
        next(buffer.get(1))
        for _ in range(self.n_epochs):
            order = torch.rand(agents, buffer.buffer_size).argsort(1) + torch.arange(agents)[:, None] * buffer.buffer_size
            for columns in order.split(part, dim=1):
                gradients, losses = [], []
                for indices in columns:
                    samples = buffer._get_samples(indices.numpy())
                    actions = samples.actions
                    if isinstance(self.action_space, spaces.Discrete):
                        actions = actions.long().flatten()
                    loss = ppo_losses(self, samples, *self.policy.evaluate_actions(samples.observations, actions)).mean()
                    gradients.append(torch.autograd.grad(loss, parameters))
                    losses.append(loss.detach())
                shares = weights("l_weighted", Signals(losses=torch.stack(losses)))
                for parameter, *parts in zip(parameters, *gradients, strict=True):
                    parameter.grad = sum(share * part for share, part in zip(shares, parts, strict=True))  # type: ignore[assignment]
                torch.nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                self.policy.optimizer.step()


def timed(build: Callable[..., PPO], env: str, agents: int, batch_size: int, samples: int) -> tuple[float, float]:
    """CPU seconds of ``learn()`` over two rollouts, and of its updates alone.

    :param samples: Samples in one rollout, all agents together.
    """
    model = build(
        "MlpPolicy",
        make_vec_env(env, agents, seed=0),
        n_steps=samples // agents,
        batch_size=batch_size,
        seed=0,
        device="cpu",
    )
    updating = 0.0
    train = model.train

    def timed_train() -> None:
        nonlocal updating
        start = time.process_time()
        train()
        updating += time.process_time() - start

    model.train = timed_train  # type: ignore[method-assign]
    gc.collect()
    gc.freeze()  # what others left behind is not this system's to sweep
    start = time.process_time()
    model.learn(2 * samples)
    total = time.process_time() - start
    model.get_env().close()  # type: ignore[union-attr]
    return total, updating


def weighted(rule: str) -> Callable[..., PPO]:
    return lambda *args, **kwargs: AggPPO(*args, aggregation=rule, **kwargs)


def main(arguments: list[str]) -> None:
    """Measure and write ``results/sb3.csv``."""
    parser = argparse.ArgumentParser(prog="run.py sb3", description=__doc__)
    parser.add_argument("--no-loop", action="store_true", help="leave out one backward per agent, which takes the longest")
    options = options_of(parser, arguments, agents=[8, 64])
    systems: dict[str, Callable[..., PPO]] = {"stock": PPO, **{rule: weighted(rule) for rule in RULES}}
    if not options.no_loop:
        systems["loop of backwards"] = LoopPPO
    measure("sb3", {**systems, "steps and products alone": Limit, "stock again": PPO}, options)


def measure(name: str, systems: dict[str, Callable[..., PPO]], options: argparse.Namespace) -> None:
    """Time systems in turn and write ``results/<name>.csv`` after each size.

    :param systems: ``stock`` and ``stock again`` among them.
    :param options: ``repeats``, ``samples``, ``envs``, ``agents`` and ``batch_sizes``.
    """
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for batch_size, env, agents in itertools.product(options.batch_sizes, options.envs, options.agents):
        timed(AggPPO, env, agents, batch_size, batch_size)  # imports and caches
        runs: dict[str, list[tuple[float, float]]] = {system: [] for system in systems}
        for _ in range(options.repeats):
            for system, build in systems.items():
                runs[system].append(timed(build, env, agents, batch_size, options.samples))
        rows += _ratios(env, agents, batch_size, options.repeats, runs)
        record.write(name, rows, ["rl-agg", "stable-baselines3", "torch", "gymnasium", "numpy"])


def options_of(parser: argparse.ArgumentParser, arguments: list[str], agents: list[int]) -> argparse.Namespace:
    """Parse what :func:`measure` needs.

    :param agents: Numbers of agents unless given.
    """
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--samples", type=int, default=4096, help="samples in one rollout, all agents together")
    parser.add_argument("--envs", nargs="+", default=["CartPole-v1", "HalfCheetah-v5"])
    parser.add_argument("--agents", nargs="+", type=int, default=agents)
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[64, 512, 4096])
    return parser.parse_args(arguments)


def _median(values: Iterable[float]) -> float:
    return round(statistics.median(values), 2)


def _ratios(
    env: str, agents: int, batch_size: int, repeats: int, runs: dict[str, list[tuple[float, float]]]
) -> list[dict[str, Any]]:
    rows = []
    for name, times in runs.items():
        references = list(zip(runs["stock"], runs["stock again"], strict=True))
        learn = [run[0] / ((a[0] + b[0]) / 2) for run, (a, b) in zip(times, references, strict=True)]
        update = [run[1] / ((a[1] + b[1]) / 2) for run, (a, b) in zip(times, references, strict=True)]
        plain = runs.get("loop of backwards")
        loop = (
            {"loop_over_update": ""}
            if plain is None
            else {"loop_over_update": _median(a[1] / b[1] for a, b in zip(plain, times, strict=True))}
        )
        rows.append(
            {
                "environment": env,
                "agents": agents,
                "batch_size": batch_size,
                "system": name,
                "repeats": repeats,
                "learn_seconds": round(statistics.median(run[0] for run in times), 4),
                "learn_over_stock": round(statistics.median(learn), 3),
                "learn_over_stock_min": round(min(learn), 3),
                "learn_over_stock_max": round(max(learn), 3),
                "update_over_stock": round(statistics.median(update), 3),
                **loop,
            }
        )
        print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return rows
