"""RL Baselines3 Zoo's trainer with the aggregating algorithms added.

    python examples/train_zoo.py --algo agg_ppo --env CartPole-v1 --conf-file examples/hyperparams/agg_ppo.yml \
        --hyperparams "aggregation:'l_weighted'" -f runs/zoo

Everything else is the zoo's own, its search (``-optimize``) included: see ``--help``.
"""

from collections.abc import Callable
from typing import Any

from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from rl_zoo3.train import train
from rl_zoo3.utils import ALGOS

from sb3_agg import AggA2C, AggDDPG, AggDQN, AggMaskablePPO, AggPPO, AggQRDQN, AggRecurrentPPO, AggSAC, AggTD3, AggTQC

OFF_POLICY = {"dqn": AggDQN, "qrdqn": AggQRDQN, "sac": AggSAC, "td3": AggTD3, "ddpg": AggDDPG, "tqc": AggTQC}
ADDED = {
    "agg_a2c": (AggA2C, "a2c"),
    "agg_ppo": (AggPPO, "ppo"),
    "agg_ppo_mask": (AggMaskablePPO, "ppo"),
    "agg_ppo_lstm": (AggRecurrentPPO, "ppo_lstm"),
    **{f"agg_{name}": (kind, name) for name, kind in OFF_POLICY.items()},
}


def in_stock_order(settings_of: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A search draws batch sizes of all kinds, and SB3's own order is the one that any of them suits."""
    return lambda *args: {**settings_of(*args), "minibatches": "stock"}


if __name__ == "__main__":
    for name, (algorithm, stock) in ADDED.items():
        ALGOS[name] = algorithm
        for settings in (HYPERPARAMS_SAMPLER, HYPERPARAMS_CONVERTER):
            settings[name] = in_stock_order(settings[stock])
    train()
