"""QMIX in environment steps per second, with as many gradient steps for each step in all systems, and what its replay takes.

- ``networks``: 10 agents with a network each, stacked; the same networks in a loop (of ``GRUCell``, one step after the
  other, as it is usually written, and of ``nn.GRU``); and one network for all. The environment costs nothing.
- ``peer``: BenchMARL's QMIX and ours on VMAS's balance, with one network of 64 units for all agents in both, and what no
  system can do without: VMAS's own steps, and the matrix products of that network's gradient steps.
- ``memory``: what 5000 episodes of the size of SMAC's corridor take, once all of them are written.

Systems take turns in every repeat, on one torch thread. Rates are of CPU time, of one process each. Step sizes are so small
that parameters stay, and all actions are random.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
import record
import torch
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from torch import Tensor, nn

from rllib_agg import QMIXConfig
from rllib_agg.envs.team.interface import Bools, TeamSpec, TeamStep, TeamView
from rllib_agg.envs.team.registry import register_team_env
from rllib_agg.qmix import QMIXModule
from rllib_agg.qmix.episodes import TeamEpisodes
from rllib_agg.qmix.module import spaces_of
from rllib_agg.qmix.networks import AgentNetworks
from rllib_agg.qmix.replay import EpisodeReplay, ReplaySettings
from rllib_agg.qmix.server import TeamServer

PEER = Path(__file__).parent / "peers" / "qmix_benchmarl.py"
STEPS = "num_env_steps_sampled_lifetime"
TEN_MARINES = TeamSpec(10, 17, 105, 243, 60, ("marine",) * 10)
CORRIDOR = TeamSpec(6, 30, 156, 282, 400, ("zealot",) * 6)
ENVS, BATCH, HIDDEN = 8, 32, 64
BALANCE_STEPS, BALANCE_AGENTS, BALANCE_ACTIONS, BALANCE_INPUTS = 100, 4, 9, 25
Turn = Callable[[], tuple[int, int, float]]
"""Takes a turn: environment steps, gradient steps and seconds."""


class Still:
    """An environment that costs nothing: it shows the same noise and never ends before its limit."""

    def __init__(self, num_envs: int) -> None:
        rng, self.spec, self.num_envs = np.random.default_rng(0), TEN_MARINES, num_envs
        agents, actions = self.spec.num_agents, self.spec.num_actions
        self._view = TeamView(
            rng.random((num_envs, agents, self.spec.observation_size), dtype=np.float32),
            rng.random((num_envs, self.spec.state_size), dtype=np.float32),
            np.ones((num_envs, agents, actions), dtype=np.bool_),
        )
        self._time = 0

    def reset(self, which: Bools, seeds: NDArray[np.int64]) -> TeamView:
        """Begin again."""
        self._time = 0
        return self._view

    def step(self, actions: NDArray[np.int64]) -> TeamStep:
        """Let time pass."""
        self._time += 1
        never = np.zeros(self.num_envs, dtype=np.bool_)
        over = never | (self._time == self.spec.max_episode_steps)
        return TeamStep(self._view, np.ones(self.num_envs, dtype=np.float32), None, never, over)

    def close(self) -> None:
        """Nothing is held."""


class Looped(AgentNetworks):
    """The same networks, one after the other.

    :param fused: A step's cell after the other, or torch's GRU over all steps.
    """

    fused = False

    def __init__(self, *sizes: int, hidden: int, shared: bool, agent_ids: bool) -> None:
        super().__init__(*sizes, hidden=hidden, shared=shared, agent_ids=agent_ids)
        agents, self.units = range(self.num_agents), hidden
        kind = nn.GRU if self.fused else nn.GRUCell
        self.first = nn.ModuleList([nn.Linear(self.input_size, hidden) for _ in agents])
        self.cells = nn.ModuleList([kind(hidden, hidden) for _ in agents])
        self.last = nn.ModuleList([nn.Linear(hidden, self.num_actions) for _ in agents])
        del self.feature, self.rnn
        self.head.requires_grad_(False)  # by which the device is known

    def initialize(self, generator: torch.Generator | None, *, orthogonal: bool, same: bool) -> None:
        """Leave what torch drew."""

    def forward(self, inputs: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        """As the stacked ones."""
        values, after = [], []
        for agent, given in enumerate(inputs.unbind(0)):  # [T, B, d]
            if self.fused:
                hidden, state = self.cells[agent](self.first[agent](given).relu(), start[agent][None])
                values.append(self.last[agent](hidden))
                after.append(state[0])
                continue
            state, steps = start[agent], []
            for now in given.unbind(0):
                state = self.cells[agent](self.first[agent](now).relu(), state)
                steps.append(self.last[agent](state))
            values.append(torch.stack(steps))
            after.append(state)
        return torch.stack(values, dim=2).transpose(0, 1), torch.stack(after)


class FusedLoop(Looped):
    """With torch's GRU."""

    fused = True


NETWORKS: dict[str, type[AgentNetworks]] = {
    "stacked": AgentNetworks,
    "one for all": AgentNetworks,
    "loop of cells": Looped,
    "loop of GRUs": FusedLoop,
}


def networks_turn(name: str, options: argparse.Namespace) -> Turn:
    """A round of episodes and as many gradient steps, of one kind of networks, without Ray."""
    kind = NETWORKS[name]

    class Module(QMIXModule):
        """With these networks."""

        def setup(self) -> None:
            """RLlib's, then theirs."""
            super().setup()
            if kind is not AgentNetworks:
                own = self.networks
                sizes = own.num_agents, own.num_actions, own.observation_size
                self.networks, self.target_networks = (
                    kind(*sizes, hidden=own.hidden, shared=False, agent_ids=own.agent_ids) for _ in range(2)
                )
                self.target_networks.requires_grad_(False)

    register_team_env("still", lambda task, num_envs, **_: Still(num_envs))
    config = QMIXConfig().environment("still/life").env_runners(num_envs_per_env_runner=ENVS)
    sharing = "full" if name == "one for all" else "none"
    config.training(lr=1e-9, epsilon=1.0, train_batch_size_per_learner=BATCH, parameter_sharing=sharing, agent_ids=False)
    config.training(replay_buffer_config={"capacity": 200})
    spec = config.get_default_rl_module_spec()
    config.rl_module(rl_module_spec=RLModuleSpec(module_class=Module, model_config=spec.model_config))
    config.validate()
    players = config.open_agents()
    group = config.build_learner_group(spaces={DEFAULT_MODULE_ID: spaces_of(TEN_MARINES)})
    learner = group.foreach_learner(lambda learner: learner).result_or_errors[0].get()
    players.networks = type(learner.team.networks)(
        TEN_MARINES.num_agents,
        TEN_MARINES.num_actions,
        TEN_MARINES.observation_size,
        hidden=64,
        shared=sharing == "full",
        agent_ids=False,
    )
    server = TeamServer(config, TEN_MARINES, learner, run=0)
    while not server.num_updates:
        server.receive(players.run(server.broadcast(), np.arange(1)))

    def turn() -> tuple[int, int, float]:
        steps, updates, start = server.num_steps, server.num_updates, time.process_time()
        for _ in range(options.rounds):
            server.receive(players.run(server.broadcast(), np.arange(1)))
        return server.num_steps - steps, server.num_updates - updates, time.process_time() - start

    return turn


def ours_turn(options: argparse.Namespace) -> Turn:
    """QMIXConfig on balance."""

    def config(updates_per_episode: float) -> Any:
        made = QMIXConfig().environment(
            "vmas/balance", env_config={"n_agents": BALANCE_AGENTS, "max_episode_steps": BALANCE_STEPS}
        )
        made.env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS).debugging(seed=0)
        settings = {"lr": 1e-9, "epsilon": 1.0, "train_batch_size_per_learner": BATCH, "parameter_sharing": "full"}
        return made.training(**settings, agent_ids=False, updates_per_episode=updates_per_episode)

    # Its episodes may end early, where the peer counts on: as many gradient steps for each step, not for each episode.
    played = config(1.0).open_agents()
    lengths = [played.play(played.networks, 1.0, np.random.default_rng(seed)).num_steps / ENVS for seed in range(10)]
    played.close()
    algorithm = config(statistics.mean(lengths) / BALANCE_STEPS).build_algo()
    while not algorithm.server.num_updates:
        algorithm.train()

    def turn() -> tuple[int, int, float]:
        steps, updates, start = algorithm.server.num_steps, algorithm.server.num_updates, time.process_time()
        for _ in range(options.rounds):
            algorithm.train()
        return algorithm.server.num_steps - steps, algorithm.server.num_updates - updates, time.process_time() - start

    return turn


def products_turn(options: argparse.Namespace) -> Turn:
    """The products of balance's gradient steps, forward by two networks and backward by one, and nothing else."""
    rows, inputs, units, gates = BATCH * BALANCE_AGENTS, BALANCE_INPUTS, HIDDEN, 3 * HIDDEN
    seen, hidden, changes = torch.rand(BALANCE_STEPS, rows, inputs), torch.rand(rows, units), torch.rand(rows, gates)
    first, feature_gates, hidden_gates, head = (
        torch.rand(*sizes) for sizes in ((inputs, units), (units, gates), (units, gates), (units, BALANCE_ACTIONS))
    )
    all_hidden, all_changes = torch.rand(BALANCE_STEPS * rows, units), torch.rand(BALANCE_STEPS * rows, gates)
    values = torch.rand(BALANCE_STEPS * rows, BALANCE_ACTIONS)

    def forward() -> None:
        (seen @ first) @ feature_gates
        for _ in range(BALANCE_STEPS):
            hidden @ hidden_gates
        all_hidden @ head

    def backward() -> None:
        values @ head.T, all_hidden.T @ values
        for _ in range(BALANCE_STEPS):
            changes @ hidden_gates.T
        all_hidden.T @ all_changes, all_hidden.T @ all_changes  # of the gates' two matrices
        seen.reshape(-1, inputs).T @ (all_changes @ feature_gates.T)

    @torch.no_grad()
    def turn() -> tuple[int, int, float]:
        updates, start = options.rounds * ENVS, time.process_time()
        for _ in range(updates):
            forward(), forward(), backward()
        return updates * BALANCE_STEPS, updates, time.process_time() - start

    return turn


def stepping_turn(options: argparse.Namespace) -> Turn:
    """VMAS's own steps, and nothing else."""
    import vmas  # of the extra that only this figure needs

    env = vmas.make_env("balance", ENVS, continuous_actions=False, seed=0, n_agents=BALANCE_AGENTS)
    actions = [torch.randint(BALANCE_ACTIONS, (ENVS, 1)).float() for _ in range(BALANCE_AGENTS)]

    def turn() -> tuple[int, int, float]:
        start = time.process_time()
        for _ in range(options.rounds):
            env.reset()
            for _ in range(BALANCE_STEPS):
                env.step(actions)
        return options.rounds * ENVS * BALANCE_STEPS, 0, time.process_time() - start

    return turn


def peer_turn(options: argparse.Namespace) -> Turn:
    """BenchMARL, in an interpreter of its own."""
    sizes = {"envs": ENVS, "batch": BATCH, "updates": ENVS, "rounds": options.rounds}
    sizes |= {"steps": BALANCE_STEPS, "agents": BALANCE_AGENTS}
    command = [options.benchmarl_python, str(PEER)]
    for name, size in sizes.items():
        command += [f"--{name}", str(size)]

    def turn() -> tuple[int, int, float]:
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise RuntimeError(run.stderr)
        printed = json.loads(run.stdout.splitlines()[-1])
        return printed["steps"], printed["updates"], printed["seconds"]

    return turn


def compare(figure: str, turns: dict[str, Turn], base: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Take turns.

    :param base: Whose rate the others' are put over, turn by turn.
    """
    rates: dict[str, list[float]] = {name: [] for name in turns}
    per_update: dict[str, float | str] = {}
    for _ in range(options.repeats):
        for name, turn in turns.items():
            steps, updates, seconds = turn()
            rates[name].append(steps / seconds)
            per_update[name] = round(steps / updates, 1) if updates else ""
            print(f"{figure}, {name}: {steps / seconds:.0f} steps/s, steps for each update: {per_update[name]}", flush=True)
    ratios = {name: [a / b for a, b in zip(rates[base], each, strict=True)] for name, each in rates.items()}
    return [
        {
            "figure": figure,
            "system": name,
            "repeats": options.repeats,
            "steps_for_an_update": per_update[name],
            "value": round(statistics.median(rates[name]), 1),
            "unit": "steps/s",
            "base_over_it": round(statistics.median(ratios[name]), 3),
            "min": round(min(ratios[name]), 3),
            "max": round(max(ratios[name]), 3),
        }
        for name in turns
    ]


def memory() -> list[dict[str, Any]]:
    """Fill a replay, and see what this process takes then."""
    settings = ReplaySettings(capacity=5000, dtype="float16")
    before = resident()
    replay = EpisodeReplay(CORRIDOR, settings)
    batch = TeamEpisodes.zeros(50, CORRIDOR.max_episode_steps, CORRIDOR, np.dtype(np.float16))
    for array in batch.arrays().values():
        array[...] = 1
    for _ in range(settings.capacity // len(batch)):
        replay.add(batch)
    taken = resident() - before - sum(array.nbytes for array in batch.arrays().values())
    print(f"memory: announced {settings.bytes_for(CORRIDOR) / 1e9:.3f} GB, taken {taken / 1e9:.3f} GB", flush=True)
    common = {"figure": "memory", "repeats": 1, "steps_for_an_update": "", "unit": "GB"}
    common |= {"base_over_it": "", "min": "", "max": ""}
    sizes = {"announced": settings.bytes_for(CORRIDOR), "taken": taken}
    return [
        {**common, "system": f"5000 corridor episodes, {name}", "value": round(size / 1e9, 3)} for name, size in sizes.items()
    ]


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def main(arguments: list[str]) -> None:
    """Measure and write ``results/qmix.csv``."""
    parser = argparse.ArgumentParser(prog="run.py qmix", description=__doc__)
    parser.add_argument("--figures", nargs="+", choices=["networks", "peer", "memory"], default=["networks", "peer", "memory"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3, help="of 8 episodes and 8 gradient steps in a turn")
    parser.add_argument("--benchmarl-python", help="a Python that has benchmarl and vmas; needed for the figure peer")
    options = parser.parse_args(arguments)
    if "peer" in options.figures and not options.benchmarl_python:
        parser.error("the figure peer needs --benchmarl-python; or choose --figures networks memory")
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    if "memory" in options.figures:
        rows += memory()
    if "networks" in options.figures:
        rows += compare("networks", {name: networks_turn(name, options) for name in NETWORKS}, "stacked", options)
    if "peer" in options.figures:
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        systems = {"QMIXConfig": ours_turn(options), "BenchMARL": peer_turn(options)}
        systems |= {"products alone": products_turn(options), "VMAS alone": stepping_turn(options)}
        rows += compare("peer", systems, "QMIXConfig", options)
    keys = list(rows[-1])
    measured = ["rl-agg", "ray", "torch", "numpy", *(["vmas"] if "peer" in options.figures else [])]
    record.write("qmix", [{key: row[key] for key in keys} for row in rows], measured)
