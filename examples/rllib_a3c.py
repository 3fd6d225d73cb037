"""A3C: env runners send gradients, and none waits for another.

python examples/rllib_a3c.py
"""

import argparse

from rllib_agg import A3CConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--num-env-runners", type=int, default=2)
parser.add_argument("--iterations", type=int, default=100)
parser.add_argument("--gradients-per-iteration", type=int, default=100)
args = parser.parse_args()

config = (
    A3CConfig()
    .environment("CartPole-v1")
    .env_runners(num_env_runners=args.num_env_runners, rollout_fragment_length=20)
    .training(aggregation="mean", entropy_coeff=0.01, lr=1e-3, gradients_per_iteration=args.gradients_per_iteration)
    .rl_module(model_config={"fcnet_hiddens": [64, 64]})
)
algorithm = config.build_algo()
for iteration in range(args.iterations):
    result = algorithm.train()
    agg = result["learners"]["default_policy"]["agg"]
    print(
        f"{iteration:3d}  return {result['env_runners'].get('episode_return_mean', float('nan')):6.1f}"
        f"  steps {result['env_runners']['num_env_steps_sampled_lifetime']:7.0f}"
        f"  staleness {agg['staleness']:.2f}  MB sent {agg['bytes'] / 1e6:.1f}"
    )
algorithm.stop()
