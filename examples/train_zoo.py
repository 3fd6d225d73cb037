"""RL Baselines3 Zoo's trainer with the aggregating algorithms added.

    python examples/train_zoo.py --algo agg_ppo --env CartPole-v1 --conf-file examples/hyperparams/agg_ppo.yml \
        --hyperparams "aggregation:'l_weighted'" -f runs/zoo

Everything else is the zoo's own: see ``--help``.
"""

from rl_zoo3.train import train
from rl_zoo3.utils import ALGOS

from sb3_agg import AggA2C, AggMaskablePPO, AggPPO, AggRecurrentPPO

if __name__ == "__main__":
    ALGOS.update(agg_a2c=AggA2C, agg_ppo=AggPPO, agg_ppo_mask=AggMaskablePPO, agg_ppo_lstm=AggRecurrentPPO)
    train()
