"""Twelve small systems, run for three updates each: what they end at must not change when code moves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.env_util import make_vec_env

from rllib_agg import AggPPOConfig, ESConfig, QMIXConfig
from sb3_agg import AggA2C, AggPPO

Parts = dict[str, NDArray[Any]]
"""``parameters``, ``weights``, ``ledger`` and ``logged``, each in a row."""

MODULE = "default_policy"
UPDATES = 3
LEDGER = ("messages", "bytes", "bytes_down")


def _flat(tensors: dict[str, Any]) -> NDArray[Any]:
    return np.concatenate([np.asarray(tensors[name], dtype=np.float32).ravel() for name in sorted(tensors)])


def _sb3(algorithm: type, **settings: Any) -> Parts:
    sizes = {} if algorithm is AggA2C else {"batch_size": 32, "n_epochs": 2}
    env = make_vec_env("CartPole-v1", n_envs=8, seed=0)
    policy = {"net_arch": [16, 16]}
    model = algorithm(
        "MlpPolicy", env, n_steps=32, policy_kwargs=policy, seed=0, ent_coef=0.01, closed_form=False, **sizes, **settings
    )
    model.learn(UPDATES * 32 * 8)
    logged = {
        name: value
        for name, value in model.logger.name_to_value.items()
        if name.startswith(("agg/", "train/")) and not name.endswith("_lifetime")
    }
    ledger = model.ledger
    return {
        "parameters": _flat({name: value.detach() for name, value in model.policy.named_parameters()}),
        "weights": np.asarray(model.agent_weights),
        "ledger": np.concatenate([ledger.messages_per_agent, ledger.bytes_per_agent, [ledger.bytes_down]]),
        "logged": np.array([logged[name] for name in sorted(logged)], dtype=np.float64),
    }


def _rllib(config: Any, names: tuple[str, ...]) -> Parts:
    algorithm = config.build_algo()
    try:
        for _ in range(UPDATES):
            result = algorithm.train()
        logged = result["learners"][MODULE]["agg"]
        state = algorithm.learner_group.get_state(components="learner/rl_module")["learner"]["rl_module"][MODULE]
        weights = [logged[name] for name in ("weight_min", "weight_max", "effective_agents") if name in logged]
        return {
            "parameters": _flat(state),
            "weights": np.array(weights, dtype=np.float64),
            "ledger": np.array([int(logged[name]) for name in LEDGER]),
            "logged": np.array([float(logged[name]) for name in names]),
        }
    finally:
        algorithm.stop()


def _agg_ppo(aggregation: str) -> Parts:
    config = (
        AggPPOConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=5)
        .rl_module(model_config={"fcnet_hiddens": [8], "vf_share_layers": False})
        .training(train_batch_size_per_learner=200, minibatch_size=50, num_epochs=2, lr=0.01, aggregation=aggregation)
        .training(closed_form=False)
        .debugging(seed=0)
    )
    return _rllib(config, ("masked_agents", "mixed_sign_updates", "skipped_updates"))


def _es() -> Parts:
    config = (
        ESConfig()
        .environment("CartPole-v1")
        .env_runners(num_env_runners=0)
        .rl_module(model_config={"fcnet_hiddens": [8]})
        .training(population=10, noise_stdev=0.1, lr=0.05, communication="deviation", expected_messages=4)
        .debugging(seed=3)
    )
    return _rllib(config, ("gradient_norm", "step_norm", "skipped_updates"))


def _qmix() -> Parts:
    config = (
        QMIXConfig()
        .environment("lbf/Foraging-5x5-2p-3f-v3")
        .env_runners(num_env_runners=0, num_envs_per_env_runner=4)
        .preset("paper")
        .rl_module(model_config={"hidden_dim": 8, "hypernet_dim": 8, "mixer_init_scale": 1.0})
        .training(same_init=True)
        .training(train_batch_size_per_learner=8, target_network_update_freq=5, rollouts_per_iteration=2)
        .training(parameter_sharing="rs_pps", credit="env", sharing_interval=3)
        .debugging(seed=3)
    )
    return _rllib(config, ("merges", "epsilon", "replay_episodes"))


SYSTEMS: dict[str, Callable[[], Parts]] = {
    "sb3_mean": lambda: _sb3(AggPPO, aggregation="mean"),
    "sb3_r_weighted": lambda: _sb3(AggPPO, aggregation="r_weighted"),
    "sb3_l_weighted": lambda: _sb3(AggPPO, aggregation="l_weighted"),
    "sb3_krum": lambda: _sb3(AggPPO, aggregation="krum"),
    "sb3_median_lag": lambda: _sb3(AggPPO, aggregation="median", communication="lag"),
    "sb3_fedavg": lambda: _sb3(AggPPO, aggregation="fedavg", aggregation_kwargs={"interval": 2}),
    "sb3_actor_sum": lambda: _sb3(AggPPO, aggregation="actor_sum"),
    "sb3_a2c_r_weighted": lambda: _sb3(AggA2C, aggregation="r_weighted"),
    "rllib_r_weighted": lambda: _agg_ppo("r_weighted"),
    "rllib_krum": lambda: _agg_ppo("krum"),
    "rllib_es_deviation": _es,
    "rllib_qmix_rs_pps": _qmix,
}


def run(name: str) -> Parts:
    """Run a system from the same start each time.

    :param name: One of :data:`SYSTEMS`.
    """
    torch.set_num_threads(1)
    torch.manual_seed(0)
    np.random.seed(0)
    return SYSTEMS[name]()
