"""Stock PPO and AggPPO in RLlib, and a plot, for which the extra study is needed too: python examples/rllib_quickstart.py"""

import argparse

import matplotlib.pyplot as plt
from ray.rllib.algorithms.ppo import PPOConfig

from rllib_agg import AggPPOConfig

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--aggregation", default="r_weighted", help="a rule or combiner, as mean, l_weighted, median")
parser.add_argument("--iterations", type=int, default=40)
parser.add_argument("--train-batch-size", type=int, default=2000)
parser.add_argument("--picture", default="rllib_quickstart.svg")
args = parser.parse_args()

ppo, agg_ppo = PPOConfig(), AggPPOConfig().training(aggregation=args.aggregation, advantage_norm="agent")
for name, config in {"stock PPO": ppo, f"AggPPO, {args.aggregation}": agg_ppo}.items():
    config.environment("CartPole-v1").env_runners(num_env_runners=0, num_envs_per_env_runner=8)  # eight agents
    config.training(train_batch_size_per_learner=args.train_batch_size, minibatch_size=250, num_epochs=8, lr=1e-3)
    algorithm = config.debugging(seed=0).build_algo()
    steps, returns = [], []
    for iteration in range(args.iterations):
        result = algorithm.train()
        steps.append(result["env_runners"]["num_env_steps_sampled_lifetime"])
        returns.append(result["env_runners"].get("episode_return_mean", float("nan")))
        agg = result["learners"]["default_policy"].get("agg")
        weights = f", weights {agg['weight_min']:.3f} to {agg['weight_max']:.3f}" if agg and "weight_min" in agg else ""
        print(f"{name}, iteration {iteration}: return {returns[-1]:.1f}{weights}")
    algorithm.stop()
    plt.plot(steps, returns, label=name)
plt.xlabel("environment steps")
plt.ylabel("mean return")
plt.legend()
plt.savefig(args.picture)
