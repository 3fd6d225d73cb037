"""Train with rl-agg, act without it: python examples/save_and_deploy.py [TOTAL_TIMESTEPS]"""

import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from stable_baselines3.common.env_util import make_vec_env

from sb3_agg import AggPPO

DEPLOYED = """
import sys
import gymnasium as gym
from stable_baselines3 import PPO

model, env = PPO.load(sys.argv[1], device="cpu"), gym.make("CartPole-v1")
observation, total, over = env.reset(seed=0)[0], 0.0, False
while not over:
    observation, reward, terminated, truncated, _ = env.step(int(model.predict(observation, deterministic=True)[0]))
    total, over = total + reward, terminated or truncated
print(f"return {total:.0f}; rl-agg imported: {'rl_agg' in sys.modules or 'sb3_agg' in sys.modules}")
"""
"""What runs on the robot, which has Stable-Baselines3 alone."""

torch.set_num_threads(1)  # networks this small learn faster on one
env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
model = AggPPO("MlpPolicy", env, aggregation="trimmed_mean", n_steps=256, seed=0, device="cpu")
model.learn(int((sys.argv[1:2] or [40_000])[0]))
with tempfile.TemporaryDirectory() as folder:
    file = Path(folder) / "model.zip"
    model.save(file)
    trained_on = AggPPO.load(file, env=env).learn(2_048, reset_num_timesteps=False)  # weights, moments and counts go on
    print(f"trained on to {trained_on.num_timesteps} steps")
    subprocess.run([sys.executable, "-c", DEPLOYED, str(file)], check=True)
