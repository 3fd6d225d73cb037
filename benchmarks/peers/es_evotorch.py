"""One turn of evotorch for ``benchmarks/es.py``: generations of PGPE, environment steps per second as JSON.

Needs ``pip install evotorch`` in an environment of its own alongside this package; it is no dependency. Run by
``python benchmarks/run.py es --evotorch-python PATH_OF_ITS_PYTHON``.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import numpy as np
import torch
from evotorch.algorithms import PGPE
from evotorch.neuroevolution import GymNE, VecGymNE

NETWORK = "Linear(obs_length, {0}) >> Tanh() >> Linear({0}, {0}) >> Tanh() >> Linear({0}, act_length)"


def problem(options: argparse.Namespace) -> Any:
    """A population's episodes, by vectors in this process or one by one in two actors."""
    limit = {"max_episode_steps": options.max_episode_steps} if options.max_episode_steps else {}
    network = NETWORK.format(options.hidden)
    if options.mode == "vector":
        return VecGymNE(options.env, network, env_config=limit, max_num_envs=options.population)
    return GymNE(options.env, network, env_config=limit, num_actors=2)


def main() -> None:
    """Warm up, run the generations, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["vector", "actors"])
    parser.add_argument("--env", required=True)
    parser.add_argument("--max-episode-steps", type=int)
    parser.add_argument("--hidden", type=int, required=True)
    parser.add_argument("--population", type=int, required=True)
    parser.add_argument("--generations", type=int, required=True)
    parser.add_argument("--theta", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    solved = problem(options)
    searcher = PGPE(
        solved,
        popsize=options.population,
        center_learning_rate=1e-9,
        stdev_learning_rate=0.0,
        stdev_init=0.02,
        center_init=torch.as_tensor(np.load(options.theta)),
        distributed=False,
    )
    searcher.run(1)
    before, start = searcher.status["total_interaction_count"], time.perf_counter()
    searcher.run(options.generations)
    steps, seconds = searcher.status["total_interaction_count"] - before, time.perf_counter() - start
    print(json.dumps({"steps": int(steps), "seconds": seconds, "generations": options.generations}))


if __name__ == "__main__":
    main()
