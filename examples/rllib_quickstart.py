"""AggPPO where you had PPO: agents that earn more count for more.

python examples/rllib_quickstart.py
"""

import argparse

from rllib_agg import AggPPOConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--aggregation", default="r_weighted", help="sum, mean, samples, r_weighted or l_weighted")
parser.add_argument("--iterations", type=int, default=30)
parser.add_argument("--train-batch-size", type=int, default=2000)
args = parser.parse_args()

config = (
    AggPPOConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=2, num_envs_per_env_runner=4)  # eight agents
    .training(
        aggregation=args.aggregation,
        advantage_norm="agent",
        train_batch_size_per_learner=args.train_batch_size,
        minibatch_size=250,
        num_epochs=8,
        lr=1e-3,
        gamma=0.98,
        lambda_=0.95,
    )
)
algorithm = config.build_algo()
for iteration in range(args.iterations):
    result = algorithm.train()
    agg = result["learners"]["default_policy"]["agg"]
    print(
        f"{iteration:3d}  return {result['env_runners'].get('episode_return_mean', float('nan')):6.1f}"
        f"  weights {agg['weight_min']:.3f} to {agg['weight_max']:.3f}  effective agents {agg['effective_agents']:.2f}"
    )
algorithm.stop()
