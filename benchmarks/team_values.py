"""What a team's values become in games of one step with all actions random, and what the greedy team then earns.

Values are those by which a team acts: the mixed ones, of QTRAN the sum of the agents' and V, of independent learners the mean
of both agents'; and the unrestricted ones: of QTRAN the joint values, of Weighted QMIX the central ones. Runs differ by seed.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from typing import Any

import ray
import record
import torch
from torch import Tensor

from rllib_agg import QMIX, QMIXConfig
from rllib_agg.qmix.joint import JointValues
from rllib_agg.qmix.mixer import mix
from rllib_agg.qmix.module import QMIXModule

GAMES = ("nonmonotonic", "climbing", "penalty")
SYSTEMS: dict[str, dict[str, Any]] = {
    "IQL": {"mixer": None},
    "VDN": {"mixer": "vdn"},
    "QMIX": {"mixer": "qmix"},
    "QTRAN, 0.1": {"mixer": "qtran"},
    "QTRAN, 1": {"mixer": "qtran", "lambda_nopt": 1.0},
    "OW-QMIX, 0.1": {"weighting": "optimistic", "weighting_alpha": 0.1},
    "OW-QMIX, 0.5": {"weighting": "optimistic"},
    "CW-QMIX, 0.1": {"weighting": "central", "weighting_alpha": 0.1},
    "CW-QMIX, 0.75": {"weighting": "central"},
}
"""With lambda_nopt of QTRAN, and alpha of Weighted QMIX."""

ENVS, GROUPS = 8, 8


def train(game: str, settings: dict[str, Any], seed: int, steps: int) -> QMIX:
    """Train with random actions for a number of gradient steps."""
    config = QMIXConfig().environment(f"matrix/{game}").debugging(seed=seed)
    config.env_runners(num_env_runners=0, num_envs_per_env_runner=ENVS).evaluation(evaluation_duration=ENVS)
    config.rl_module(model_config={"hidden_dim": 32, "hypernet_dim": 32, "central_dim": 64, "mixer_init_scale": 1.0})
    config.training(epsilon=1.0, parameter_sharing="none", reward_normalization=None, normalize_states=False)  # in rewards
    config.training(
        lr=2e-3, updates_per_episode=0.25, rollouts_per_iteration=GROUPS, train_batch_size_per_learner=32, **settings
    )
    algorithm = config.build_algo()
    while algorithm.server.num_updates < steps:
        algorithm.train()
    return algorithm


@torch.no_grad()
def values_of(team: QMIXModule) -> dict[str, list[float]]:
    """Values of all joint actions before the only step, by name; joint actions in the order of ``itertools.product``."""
    networks, states = team.networks, torch.ones(1, 1)
    joint = torch.tensor(list(itertools.product(range(networks.num_actions), repeat=networks.num_agents)))  # [J, n]
    states = states.expand(len(joint), 1)
    inputs = networks.arrange(torch.ones(1, 1, networks.num_agents, 1), torch.full((1, 1, networks.num_agents), -1))

    def chosen(values: Tensor) -> Tensor:
        return values[0, 0].expand(len(joint), -1, -1).gather(-1, joint.unsqueeze(-1)).squeeze(-1)  # [J, n]

    hidden = networks.encode(inputs, networks.start(1))
    own = chosen(networks.evaluate(hidden))
    if isinstance(team.mixer, JointValues):
        seen = networks.by_agent(hidden)[0, 0].expand(len(joint), -1, -1)
        found = {
            "acted by": own.sum(-1) + team.mixer.state_value(states)[:, 0],
            "unrestricted": team.mixer(seen, joint, states)[:, 0],
        }
    else:
        found = {"acted by": mix(team.mixer, own, states).mean(-1)}
        if team.central is not None:
            judged, _ = team.central.networks(inputs, networks.start(1))
            found["unrestricted"] = team.central.mix(chosen(judged), states)[:, 0]
    return {name: values.tolist() for name, values in found.items()}


def main(arguments: list[str]) -> None:
    """Run all, write ``results/team_values.csv`` and print the tables."""
    parser = argparse.ArgumentParser(prog="run.py team_values", description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2000, help="gradient steps, one for every four episodes")
    parser.add_argument("--games", nargs="+", default=GAMES, choices=GAMES)
    options = parser.parse_args(arguments)
    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    rows: list[dict[str, Any]] = []
    for game, system, seed in itertools.product(options.games, SYSTEMS, range(options.seeds)):
        algorithm = train(game, SYSTEMS[system], seed, options.steps)
        earned = algorithm.evaluate()["env_runners"]["episode_return_mean"]
        for kind, values in values_of(algorithm.learner.team).items():
            cells = {
                f"{i}, {j}": round(value, 2) for (i, j), value in zip(itertools.product("ABC", "ABC"), values, strict=True)
            }
            rows.append(
                {
                    "game": game,
                    "system": system,
                    "seed": seed,
                    "steps": options.steps,
                    "greedy_return": earned,
                    "values": kind,
                    **cells,
                }
            )
        algorithm.stop()
        print(", ".join(map(str, rows[-1].values())), flush=True)
    record.write("team_values", rows, ["rl-agg", "ray", "torch"])
    for game in options.games:
        print(f"\n{game}\n\n{table(rows, game)}")


def table(rows: list[dict[str, Any]], game: str) -> str:
    """Markdown: medians over seeds of each joint action's value, and the greedy teams' returns."""
    own = [row for row in rows if row["game"] == game]
    cells = [name for name in rows[0] if "," in name]
    lines = ["| | values | " + " | ".join(name.replace(", ", "") for name in cells) + " | greedy return |"]
    lines.append("|---" * (len(cells) + 3) + "|")
    for system, kind in dict.fromkeys((row["system"], row["values"]) for row in own):
        runs = [row for row in own if (row["system"], row["values"]) == (system, kind)]
        medians = [statistics.median(float(row[name]) for row in runs) for name in cells]
        returns = ", ".join(f"{float(row['greedy_return']):g}" for row in runs) if kind == "acted by" else ""
        lines.append(" | ".join([f"| {system}", kind, *(f"{value:.1f}" for value in medians), f"{returns} |"]))
    return "\n".join(lines).replace("-0.0 ", "0.0 ")
