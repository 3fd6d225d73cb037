"""Several learners, each with whole agents: the gradient is that of a single learner. python examples/rllib_multi_learner.py

On a cluster, give each learner a GPU with .learners(num_gpus_per_learner=1).
"""

import argparse

from rllib_agg import AggPPOConfig

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--num-learners", type=int, default=2)
parser.add_argument("--iterations", type=int, default=20)
parser.add_argument("--train-batch-size", type=int, default=1000, help="per learner")
args = parser.parse_args()

config = (
    AggPPOConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=1, num_envs_per_env_runner=6)
    .learners(num_learners=args.num_learners, shard_by_agent=True)
    .training(
        aggregation="l_weighted",
        aggregation_kwargs={"h": 8},
        advantage_norm="agent",
        train_batch_size_per_learner=args.train_batch_size,
        minibatch_size=125,
        num_epochs=8,
        lr=1e-3,
    )
)
algorithm = config.build_algo()
for iteration in range(args.iterations):
    result = algorithm.train()
    agg = result["learners"]["default_policy"]["agg"]
    print(
        f"{iteration:3d}  return {result['env_runners'].get('episode_return_mean', float('nan')):6.1f}"
        f"  updates with losses of mixed sign {agg['mixed_sign_updates_lifetime']:.0f}"
    )
algorithm.stop()
