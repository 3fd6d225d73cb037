"""A combiner that remembers, and whose memory is in the model's file: python examples/sb3_own_combiner.py"""

import tempfile
from pathlib import Path

import torch
from stable_baselines3.common.env_util import make_vec_env

from rl_agg import Combiner
from sb3_agg import AggPPO


class Momentum(Combiner):
    """The median of the agents' gradients, averaged over the last steps."""

    def __init__(self, decay=0.9):
        self.decay, self.steps, self.mean = decay, 0, torch.zeros(())

    def merge(self, gradients, *, num_masked, step):
        self.steps += 1
        self.mean = self.decay * self.mean + (1 - self.decay) * gradients.median(0).values
        return self.mean / (1 - self.decay**self.steps)

    def state_dict(self):
        return {"steps": self.steps, "mean": self.mean}

    def load_state_dict(self, state):
        self.steps, self.mean = state["steps"], state["mean"]


torch.set_num_threads(1)  # networks this small learn faster on one
env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
model = AggPPO("MlpPolicy", env, aggregation=Momentum(), n_steps=64, batch_size=128, seed=0, device="cpu").learn(2_048)
with tempfile.TemporaryDirectory() as folder:
    model.save(Path(folder) / "model")
    loaded = AggPPO.load(Path(folder) / "model", env=env)
print(f"steps remembered: {loaded.exchange.state_dict()['rule']['steps']}")
