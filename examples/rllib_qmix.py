"""A team that learns with QMIX: python examples/rllib_qmix.py [--env smax/3m]

Returns are those of training, exploration included. In the two-step game they rise from 4.5 to above 6; the best is 8.
"""

import argparse

from rllib_agg import QMIXConfig

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--env", default="matrix/two_step", help="BACKEND/TASK; smax, lbf, mpe and vmas need the extra marl")
parser.add_argument("--sharing", default="full", help="full, none, a_pps, rs_pps, pp_pps, or a rule or combiner")
parser.add_argument("--iterations", type=int, default=100)
args = parser.parse_args()

config = QMIXConfig().environment(args.env).env_runners(num_env_runners=0).debugging(seed=0)
config.training(mixer="qmix", parameter_sharing=args.sharing)
if args.env.startswith("matrix/"):
    config.training(credit="team")  # nobody's merit alone
algorithm = config.build_algo()
for iteration in range(args.iterations):
    team = algorithm.train()["env_runners"]
    wins = f"  won {team['win_rate']:4.0%}" if "win_rate" in team else ""
    print(f"{iteration:3d}  return {team['episode_return_mean']:7.2f}{wins}")
algorithm.stop()
