"""One turn of BenchMARL's QMIX for ``benchmarks/qmix.py``: environment steps and seconds as JSON.

Needs ``pip install benchmarl vmas`` in an environment of its own alongside this package (BenchMARL 1.5.2 does not import with
torchrl 0.14; 0.11 works); it is no dependency. Run by ``python benchmarks/run.py qmix --benchmarl-python PATH_OF_ITS_PYTHON``.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from typing import Any

import torch
from benchmarl.algorithms import QmixConfig
from benchmarl.environments import VmasTask
from benchmarl.experiment import Callback, Experiment, ExperimentConfig
from benchmarl.models import GruConfig, MlpConfig
from benchmarl.models.common import SequenceModelConfig


class Clock(Callback):
    """Remembers when each round of updates was done."""

    def __init__(self) -> None:
        super().__init__()
        self.times: list[float] = []

    def on_train_end(self, training_td: Any, group: str) -> None:
        """Look at the clock."""
        self.times.append(time.process_time())


def main() -> None:
    """Warm up, go on, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("envs", "batch", "updates", "rounds", "agents"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True, help="of an episode")
    options = parser.parse_args()
    torch.set_num_threads(1)
    config = ExperimentConfig.get_from_yaml()
    frames = options.envs * options.steps
    config.prefer_continuous_actions = False
    config.share_policy_params = True
    config.lr = 1e-9
    config.exploration_eps_init = config.exploration_eps_end = 1.0
    config.off_policy_collected_frames_per_batch = frames
    config.off_policy_n_envs_per_worker = options.envs
    config.off_policy_n_optimizer_steps = options.updates
    config.off_policy_train_batch_size = options.batch * options.steps
    config.off_policy_memory_size = 5000 * options.steps
    config.soft_target_update, config.hard_target_update_frequency = False, 200
    config.clip_grad_val = 10.0
    warm = 2 + options.batch // options.envs
    config.max_n_iters, config.max_n_frames = warm + options.rounds, None
    config.evaluation = config.render = config.create_json = False
    config.loggers = []
    layer = MlpConfig(num_cells=[], layer_class=torch.nn.Linear, activation_class=torch.nn.ReLU)
    recurrent = GruConfig(
        hidden_size=64,
        n_layers=1,
        bias=True,
        dropout=0.0,
        compile=False,
        mlp_num_cells=[],
        mlp_layer_class=torch.nn.Linear,
        mlp_activation_class=torch.nn.ReLU,
    )
    model = SequenceModelConfig(model_configs=[layer, recurrent], intermediate_sizes=[64])
    algorithm = QmixConfig.get_from_yaml()
    algorithm.mixing_embed_dim = 32
    task = VmasTask.BALANCE.get_from_yaml()
    task.config |= {"max_steps": options.steps, "n_agents": options.agents}
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        config.save_folder = folder
        Experiment(task=task, algorithm_config=algorithm, model_config=model, seed=0, config=config, callbacks=[clock]).run()
    seconds = clock.times[-1] - clock.times[warm - 1]
    print(json.dumps({"steps": frames * options.rounds, "seconds": seconds, "updates": options.updates * options.rounds}))


if __name__ == "__main__":
    main()
