"""PPO on CartPole with eight agents whose gradients count by their loss."""

import sys

import torch
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_agg import AggPPO


def main(total_timesteps: int = 100_000) -> float:
    """Train, and return the mean return of ten evaluation episodes."""
    torch.set_num_threads(1)  # networks this small learn faster on one
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    model = AggPPO("MlpPolicy", env, aggregation="l_weighted", n_steps=256, seed=0, device="cpu")
    model.learn(total_timesteps, progress_bar=sys.stdout.isatty())
    mean_return, _ = evaluate_policy(model, make_vec_env("CartPole-v1", seed=1), n_eval_episodes=10)
    print(f"mean return over 10 episodes: {mean_return:.0f}; agents' weights: {model.agent_weights.round(3)}")
    return float(mean_return)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
