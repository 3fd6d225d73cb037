"""Sampling on SMAX in environment steps per second: episodes of this package's QMIX alongside JaxMARL's jitted rollout.

Both play the map against SMAX's heuristic by one recurrent network of 64 units for all agents, with as many copies, an episode
limit of SMAC's, half of the actions random, on one thread, and keep observations, states, legal actions, actions, rewards and
ends. JaxMARL steps all copies on and resets those that end; this package plays a round of episodes, four for each copy, whose
copies wait at its end. Only steps of episodes count. Systems take turns; rates are of CPU time, after compilation.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import record
import torch

from rllib_agg import QMIXConfig

HIDDEN, EPSILON, LIMITS = 64, 0.5, {"3m": 60, "2s3z": 120}
ROUND = 4
"""Groups in a round of QMIX by default, each of an episode in every copy."""

Turn = Callable[[int], tuple[int, float]]
"""Plays at least so many steps: those that were played, and seconds."""


def ours(task: str, copies: int) -> Turn:
    """This package."""
    players = QMIXConfig().environment(f"smax/{task}").env_runners(num_envs_per_env_runner=copies).open_agents()

    def play(seed: int) -> int:
        groups = [np.random.default_rng((seed, group)) for group in range(ROUND)]
        return sum(played.num_steps for played in players.play_groups(players.networks, EPSILON, groups))

    def turn(least: int) -> tuple[int, float]:
        steps, start = 0, time.process_time()
        while steps < least:
            steps += play(steps)
        return steps, time.process_time() - start

    play(0)

    return turn


def jaxmarl(task: str, copies: int) -> Turn:
    """JaxMARL's wrappers and network, as its QMIX has them."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp
    from jaxmarl import make
    from jaxmarl.environments.smax import map_name_to_scenario
    from jaxmarl.wrappers.baselines import CTRolloutManager, SMAXLogWrapper

    class Recurrent(nn.Module):  # type: ignore[misc]
        """A step of a layer, a gated recurrent unit and a head."""

        actions: int

        @nn.compact  # type: ignore[untyped-decorator]
        def __call__(self, hidden: Any, seen: Any, ended: Any) -> Any:
            features = nn.relu(nn.Dense(HIDDEN)(seen))
            hidden = jnp.where(ended[..., None], 0, hidden)
            hidden, out = nn.GRUCell(HIDDEN)(hidden, features)
            return hidden, nn.Dense(self.actions)(out)

    env = SMAXLogWrapper(make("HeuristicEnemySMAX", scenario=map_name_to_scenario(task), max_steps=LIMITS[task]))
    manager, agents, steps = CTRolloutManager(env, batch_size=copies), env.agents, 128
    network = Recurrent(manager.max_action_space)

    def stack(of_agents: dict[str, Any]) -> Any:
        return jnp.stack([of_agents[agent] for agent in agents])

    def choose(key: Any, values: Any, legal: Any) -> Any:
        which, what = jax.random.split(key)
        best = jnp.where(legal, values, -1e9).argmax(-1)
        drawn = jax.random.categorical(what, jnp.where(legal, 0.0, -1e9))
        return jnp.where(jax.random.uniform(which, best.shape) < EPSILON, drawn, best)

    def advance(parameters: Any, carry: Any, _: Any) -> Any:
        hidden, seen, ended, states, key = carry
        key, to_act, to_step = jax.random.split(key, 3)
        legal = stack(manager.get_valid_actions(states.env_state))
        hidden, values = network.apply(parameters, hidden, stack(seen), stack(ended))
        actions = choose(to_act, values, legal)
        moves = {agent: actions[number] for number, agent in enumerate(agents)}
        after, states, rewards, over, _ = manager.batch_step(to_step, states, moves)
        kept = stack(seen), seen["__all__"], legal, actions, rewards["__all__"], over["__all__"]
        return (hidden, after, {agent: over[agent] for agent in agents}, states, key), kept

    rollout = jax.jit(lambda parameters, carry: jax.lax.scan(functools.partial(advance, parameters), carry, length=steps))
    seen, states = manager.batch_reset(jax.random.PRNGKey(0))
    hidden, ended = jnp.zeros((len(agents), copies, HIDDEN)), {agent: jnp.zeros(copies, bool) for agent in agents}
    parameters = network.init(jax.random.PRNGKey(1), hidden, stack(seen), stack(ended))
    carry: Any = (hidden, seen, ended, states, jax.random.PRNGKey(2))
    for _ in range(2):  # compiled once more for what the first one returns
        carry, _ = rollout(parameters, carry)

    def turn(least: int) -> tuple[int, float]:
        nonlocal carry
        played, start = 0, time.process_time()
        while played < least:
            carry, kept = rollout(parameters, carry)
            jax.tree.map(np.asarray, kept)  # as the replay needs them
            played += steps * copies
        return played, time.process_time() - start

    return turn


def main(arguments: list[str]) -> None:
    """Measure and write ``results/smax.csv``."""
    parser = argparse.ArgumentParser(prog="run.py smax", description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--maps", nargs="+", choices=LIMITS, default=list(LIMITS))
    parser.add_argument("--copies", nargs="+", type=int, default=[8, 64, 256])
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for task in options.maps:
        for copies in options.copies:
            systems = {"QMIXConfig": ours(task, copies), "JaxMARL": jaxmarl(task, copies)}
            rates: dict[str, list[float]] = {name: [] for name in systems}
            for _ in range(options.repeats):
                for name, turn in systems.items():
                    steps, seconds = turn(30_000)
                    rates[name].append(steps / seconds)
            ratios = [own / other for own, other in zip(rates["QMIXConfig"], rates["JaxMARL"], strict=True)]
            row: dict[str, Any] = {"map": task, "copies": copies, "repeats": options.repeats}
            row |= {f"{name} steps/s": round(statistics.median(each)) for name, each in rates.items()}
            row |= {"ratio": round(statistics.median(ratios), 2)}
            row |= {"min": round(min(ratios), 2), "max": round(max(ratios), 2)}
            rows.append(row)
            print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    record.write("smax", rows, ["rl-agg", "jaxmarl", "jax", "flax", "torch", "numpy"])
