"""A first study of an environment, with comments, for a user to change."""

import json
import shlex
from pathlib import Path

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.environments import check_gymnasium, is_team
from rl_agg.study.spec.naming import slug

HEAD = """\
# Each system on each environment with each seed; docs/compare.md has all keys.
#   rl-agg compare {path} --dry-run    check it and list what would run
#   rl-agg compare {path} --quick      a short trial
#   rl-agg compare {path}              the study; stopped and started again, it continues
name: {name}
"""

GYMNASIUM = """\
baseline: Mean # what the others are compared with
systems: # by import path, your own classes too; `rl-agg systems` prints more entries
  Mean: {{system: "sb3_agg:AggPPO", settings: {{aggregation: mean}}}}
  R-Weighted: {{system: "sb3_agg:AggPPO", settings: {{aggregation: r_weighted}}}}
  L-Weighted: {{system: "sb3_agg:AggPPO", settings: {{aggregation: l_weighted}}}}
  # PPO: {{system: "stable_baselines3:PPO"}}
environments:
  {name}:
    num_agents: 8 # sub-environments
    # policy: MultiInputPolicy # where observations are dictionaries; CnnPolicy for images
    # network: small # or medium, large
    # normalize: true # observations and rewards
    # threshold: 400 # the return that counts as solved
    settings: # arguments of the systems' constructors
      n_steps: 256 # of each agent, between two updates
      batch_size: 256
      learning_rate: 0.0003
budget: {{updates: 100}} # or env_steps, or seconds of wall time
"""

TEAM = """\
baseline: A network each # what the others are compared with
systems: # by import path; `rl-agg systems` prints more entries
  A network each: {{system: "rllib_agg:QMIX", settings: {{parameter_sharing: none}}}}
  One network: {{system: "rllib_agg:QMIX", settings: {{parameter_sharing: full}}}}
  A-PPS: {{system: "rllib_agg:QMIX", settings: {{parameter_sharing: a_pps}}}}
environments:
  {name}:
    num_agents: 8 # copies of the team that play in parallel
    # threshold: 0.9 # the return that counts as solved
    settings: # arguments of .training()
      lr: 0.0005
      train_batch_size_per_learner: 32 # episodes
budget: {{env_steps: 500_000}} # or updates, or seconds of wall time
"""

TAIL = """\
seeds: 6 # how many, or a list; below six no difference can be established
quick: {{budget: {{updates: 2}}, seeds: 1}} # what --quick changes
"""


def write_first_study(env: str, path: Path | None) -> Path:
    """Write a study: of AggPPO under three rules for Gymnasium's environments, of QMIX with three ways of sharing for teams.

    :param env: ``CartPole-v1``, ``my_module:MyEnv-v0``, ``smax/3m``.
    :param path: Where to; a file named after the environment unless given.
    :return: Where it is.
    :raises StudyError: if there is no such environment, or the file exists.
    """
    path = path or Path(f"{slug(env)}.yaml")
    if not is_team(env):
        check_gymnasium(env)
    text = HEAD + (TEAM if is_team(env) else GYMNASIUM) + TAIL
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text.format(path=shlex.quote(str(path)), name=json.dumps(env, ensure_ascii=False)))
    except FileExistsError as error:
        raise StudyError(f"{path} exists and is kept; name another file by --out, or remove it") from error
    return path
