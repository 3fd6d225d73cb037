"""A rule of one's own: only the better half of the agents counts. python examples/custom_rule.py [TOTAL_TIMESTEPS]"""

import sys

import torch
from stable_baselines3.common.env_util import make_vec_env

from rl_agg import register_rule
from sb3_agg import AggPPO


def better_half(signals, *, floor=0.0):
    """Weight 1 for agents whose return is at least the median, ``floor`` for the others."""
    return torch.where(signals.returns >= signals.returns.median(), 1.0, floor)


register_rule("better_half", better_half, needs=["returns"])  # aggregation=better_half works without this

torch.set_num_threads(1)  # networks this small learn faster on one
env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
settings = {"floor": 0.1}
model = AggPPO("MlpPolicy", env, aggregation="better_half", aggregation_kwargs=settings, n_steps=256, seed=0, device="cpu")
model.learn(int((sys.argv[1:2] or [40_000])[0]))
print(f"returns {model.agent_returns.round()}; weights {model.agent_weights.round(2)}")
