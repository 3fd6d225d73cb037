"""Two of eight agents send their gradient reversed and ten times as long: python examples/faulty_agents.py [TOTAL_TIMESTEPS]

The mean collapses to a return of 9, which is that of always pushing the cart to one side. The median learns.
"""

import sys

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_agg import AggPPO

total_timesteps = int((sys.argv[1:2] or [60_000])[0])
torch.set_num_threads(1)  # networks this small learn faster on one
large_steps = {
    "n_steps": 512,
    "batch_size": 4096,
    "n_epochs": 20,
    "learning_rate": 0.003,
}  # as examples/studies/attackers.yaml
for aggregation in ("mean", "median"):
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    attack = {"kind": "sign_flip", "agents": [0, 1], "scale": 10.0}
    model = AggPPO("MlpPolicy", env, aggregation=aggregation, attack=attack, **large_steps, seed=0, device="cpu")
    model.learn(total_timesteps)
    mean_return, _ = evaluate_policy(model, make_vec_env("CartPole-v1", seed=1), n_eval_episodes=10)
    print(f"{aggregation}: return {mean_return:.0f}")
