"""FedAvg: each agent has its own parameters, merged every four updates. python examples/sb3_fedavg.py [TOTAL_TIMESTEPS]"""

import sys

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_agg import AggPPO

total_timesteps = int((sys.argv[1:2] or [60_000])[0])
torch.set_num_threads(1)  # networks this small learn faster on one
for name, saving in {
    "FedAvg": {},
    "half of the clients, float16": {
        "communication": "random",
        "communication_kwargs": {"expected_messages": 4},
        "compression": "float16",
    },
}.items():
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    settings = {"aggregation": "fedavg", "aggregation_kwargs": {"interval": 4}, **saving}
    model = AggPPO("MlpPolicy", env, **settings, n_steps=128, seed=0, device="cpu").learn(total_timesteps)
    mean_return, _ = evaluate_policy(model, make_vec_env("CartPole-v1", seed=1), n_eval_episodes=10)
    print(f"{name}: return {mean_return:.0f}, {model.ledger.messages} messages, {model.ledger.bytes / 1e6:.1f} MB sent")
