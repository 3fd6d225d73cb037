"""Evolution strategies on RLlib, with a gate that saves messages.

python examples/rllib_es.py
python examples/rllib_es.py --communication espc --faithful
python examples/rllib_es.py --env Ant-v5 --communication deviation --expected-messages 25 --normalize-observations
"""

import argparse

from rllib_agg import ESConfig

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--env", default="CartPole-v1")
parser.add_argument("--iterations", type=int, default=100)
parser.add_argument("--num-env-runners", type=int, default=0, help="0: all agents in this process")
parser.add_argument("--population", type=int, default=50)
parser.add_argument("--communication", default="deviation", choices=["every", "espc", "random", "deviation"])
parser.add_argument("--expected-messages", type=int, default=25, help="m, how many agents should send in an update")
parser.add_argument("--faithful", action="store_true", help="the report's settings for CartPole")
parser.add_argument("--normalize-observations", action="store_true")
args = parser.parse_args()

config = ESConfig().environment(args.env).env_runners(num_env_runners=args.num_env_runners).debugging(seed=0)
if args.faithful:
    config.faithful("cartpole")
config.training(
    population=args.population,
    communication=args.communication,
    expected_messages=None if args.communication == "every" else args.expected_messages,
    normalize_observations=args.normalize_observations,
)
algorithm = config.build_algo()
for iteration in range(args.iterations):
    result = algorithm.train()
    agents, agg = result["env_runners"], result["learners"]["default_policy"]["agg"]
    print(
        f"{iteration:3d}  agents {agents['episode_return_mean']:7.1f}  server {agents['server']['episode_return_mean']:7.1f}"
        f"  sent {agg['mu_frequency']:4.0%}  messages {agg['messages']:6.0f}  kB sent {agg['bytes'] / 1e3:.1f}"
    )
algorithm.stop()
