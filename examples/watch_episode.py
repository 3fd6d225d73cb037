"""Watch a team play one episode, as a GIF.

python examples/watch_episode.py
python examples/watch_episode.py --env lbf/Foraging-8x8-2p-2f-coop-v3 --out foraging.gif
python examples/watch_episode.py --env smax/2s3z --policy my_module:make_policy

python examples/watch_episode.py --env smax/3m --policy CHECKPOINT

CHECKPOINT is a folder that QMIX was saved to. Any other policy is made by a function of the team's TeamSpec and a seed, and
gives legal actions [E, n] for a TeamView.
"""

import argparse
from pathlib import Path

from rllib_agg.envs.team.recording import record_episode, save_gif
from rllib_agg.envs.team.registry import make_team_env
from rllib_agg.qmix.policies import find_policy

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--env", default="smax/3m", help="BACKEND/TASK, as smax/3m, lbf/..., mpe/simple_spread_v3")
parser.add_argument("--policy", default="random", help="random, a checkpoint of QMIX, or MODULE:FUNCTION")
parser.add_argument("--seed", type=int, default=0)
parser.add_argument("--out", type=Path, default=Path("episode.gif"))
parser.add_argument("--steps-per-second", type=float, default=4.0)
args = parser.parse_args()

env = make_team_env(args.env, num_envs=1)
recording = record_episode(env, find_policy(args.policy)(env.spec, args.seed), seed=args.seed)
env.close()
save_gif(recording.pictures, args.out, pictures_per_second=args.steps_per_second * recording.pictures_per_step)
ending = {None: "over", True: "won", False: "not won"}[recording.won]
print(f"{args.env}: {ending} after {recording.num_steps} steps, return {recording.team_return:.2f}; wrote {args.out}")
