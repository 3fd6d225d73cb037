"""Stock PPO and AggPPO on CartPole, extras sb3 and study: python examples/sb3_quickstart.py [TOTAL_TIMESTEPS [PICTURE]]"""

import sys
import time

import matplotlib.pyplot as plt
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggPPO


class Curve(BaseCallback):
    """CPU seconds and the mean return of the last hundred episodes, after each rollout."""

    def _on_training_start(self):
        self.start, self.seconds, self.returns = time.process_time(), [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.seconds.append(time.process_time() - self.start)
        self.returns.append(sum(episode["r"] for episode in self.model.ep_info_buffer) / len(self.model.ep_info_buffer))


total_timesteps, picture = int((sys.argv[1:2] or [100_000])[0]), (sys.argv[2:3] or ["sb3_quickstart.svg"])[0]
torch.set_num_threads(1)  # networks this small learn faster on one
for name, algorithm in {"stock PPO": PPO, "AggPPO": AggPPO}.items():
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    model = algorithm("MlpPolicy", env, n_steps=256, seed=0, device="cpu")
    model.learn(total_timesteps, callback=(curve := Curve()))
    plt.plot(curve.seconds, curve.returns, label=name)
    print(f"{name}: return {curve.returns[-1]:.0f} after {curve.seconds[-1]:.0f} CPU seconds")
plt.xlabel("CPU seconds")
plt.ylabel("mean return of the last 100 episodes")
plt.legend()
plt.savefig(picture)
