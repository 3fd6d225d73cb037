# %% [markdown]
# # Faulty agents in Stable-Baselines3
#
# Eight agents learn CartPole together. Two of them send a wrong gradient. We compare plain averaging with the median, draw
# both learning curves, and open the better model with stock PPO. One minute; needs `pip install -e ".[sb3]" matplotlib`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_agg import AggPPO

TOTAL_TIMESTEPS = 60_000
torch.set_num_threads(1)  # networks this small learn faster on one

# %% [markdown]
# ## Two of eight agents are attackers
#
# Each sub-environment of a `VecEnv` is an agent. `attack` makes agents 0 and 1 reverse their gradient and multiply it by 10.
# `aggregation` says how the gradients of all agents become one.


# %%
class Returns(BaseCallback):
    """The mean return of the last hundred episodes, after each rollout."""

    def _on_training_start(self):
        self.steps, self.returns = [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        episodes = self.model.ep_info_buffer
        self.steps.append(self.num_timesteps)
        self.returns.append(sum(episode["r"] for episode in episodes) / len(episodes))


def train(aggregation):
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    attack = {"kind": "sign_flip", "agents": [0, 1], "scale": 10.0}
    settings = {"n_steps": 512, "batch_size": 4096, "n_epochs": 20, "learning_rate": 0.003, "seed": 0, "device": "cpu"}
    model = AggPPO("MlpPolicy", env, aggregation=aggregation, attack=attack, **settings)
    model.learn(TOTAL_TIMESTEPS, callback=(curve := Returns()))
    return model, curve


runs = {aggregation: train(aggregation) for aggregation in ("mean", "median")}

# %% [markdown]
# ## What the attack does
#
# The mean follows the two attackers and collapses. The median of each parameter's eight gradients ignores them.

# %%
figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
for aggregation, (_, curve) in runs.items():
    axes.plot(curve.steps, curve.returns, label=aggregation)
axes.set_xlabel("environment steps")
axes.set_ylabel("mean return of the last 100 episodes")
axes.legend()
plt.show()

# %% [markdown]
# ## Deploy without rl-agg
#
# The saved file holds only what PPO knows. Stock PPO opens it on a machine where rl-agg is not installed.

# %%
file = Path(tempfile.mkdtemp()) / "model"
runs["median"][0].save(file)
deployed = PPO.load(file, device="cpu")
mean_return, _ = evaluate_policy(deployed, make_vec_env("CartPole-v1", seed=1), n_eval_episodes=10)
print(f"median, deployed: return {mean_return:.0f}")

# %% [markdown]
# Next: try `"krum"`, `"trimmed_mean"` or a rule of your own instead of `"median"`; `docs/combiners.md` lists what each
# tolerates. One run of each proves little: the notebook `study.py` compares with several seeds and intervals.
