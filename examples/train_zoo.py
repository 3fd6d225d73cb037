"""RL Baselines3 Zoo's trainer with the aggregating algorithms added: ``python examples/train_zoo.py --algo agg_ppo ...``.

    python examples/train_zoo.py --algo agg_ppo --env CartPole-v1 \
        --conf-file examples/hyperparams/agg_ppo.yml --hyperparams "aggregation:'l_weighted'" -f runs/zoo

Everything else is the zoo's own: see ``--help``.
"""

import rl_zoo3
import rl_zoo3.exp_manager
import rl_zoo3.utils
from rl_zoo3.train import train

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO

CLASSES = {"agg_a2c": AggA2C, "agg_ppo": AggPPO, "agg_ppo_mask": AggMaskablePPO, "agg_ppo_lstm": AggRecurrentPPO}


def register() -> None:
    """Make the zoo's trainer and its loaders know the algorithms."""
    for module in (rl_zoo3, rl_zoo3.utils, rl_zoo3.exp_manager):
        module.ALGOS.update(CLASSES)


if __name__ == "__main__":
    register()
    train()
