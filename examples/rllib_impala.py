"""RLlib's IMPALA as it comes, or with weighted learners, on settings that learn CartPole; HalfCheetah on the same terms.

python examples/rllib_impala.py
python examples/rllib_impala.py --env HalfCheetah-v5 --steps 1000000 --algorithm agg_impala
"""

import argparse
from typing import Any

from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.connectors.env_to_module import MeanStdFilter

from rllib_agg import AggAPPOConfig, AggIMPALAConfig

ALGORITHMS = {"impala": IMPALAConfig, "agg_impala": AggIMPALAConfig, "agg_appo": AggAPPOConfig}
MODELS = {
    "CartPole-v1": {"fcnet_hiddens": [64, 64], "vf_share_layers": True},
    "HalfCheetah-v5": {"fcnet_hiddens": [256, 256], "fcnet_activation": "tanh", "vf_share_layers": False},
}
TRAINING = {
    "CartPole-v1": {"train_batch_size_per_learner": 400, "lr": 1.5e-3, "vf_loss_coeff": 0.05, "entropy_coeff": 0.005},
    # Not tuned: RLlib has no settings of its own for IMPALA here.
    "HalfCheetah-v5": {"train_batch_size_per_learner": 1000, "lr": 3e-4, "vf_loss_coeff": 0.5, "entropy_coeff": 0.0},
}


def configure(config: Any, env: str, num_env_runners: int = 1) -> Any:
    """Set an IMPALA or APPO config up for one of the two environments."""
    return (
        config.environment(env)
        .env_runners(
            num_env_runners=num_env_runners,
            num_envs_per_env_runner=8,
            rollout_fragment_length=50,
            env_to_module_connector=lambda env, spaces, device: MeanStdFilter(),
        )
        .learners(num_learners=1)
        .rl_module(model_config=MODELS[env])
        .training(**TRAINING[env])
        .reporting(metrics_num_episodes_for_smoothing=20)
    )


def main() -> None:
    """Train, and print how far it is every few seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithm", choices=sorted(ALGORITHMS), default="impala")
    parser.add_argument("--env", choices=sorted(MODELS), default="CartPole-v1")
    parser.add_argument("--aggregation", default="mean", help="of agg_impala and agg_appo")
    parser.add_argument("--steps", type=int, default=600_000)
    parser.add_argument("--num-env-runners", type=int, default=1)
    parser.add_argument("--seconds-per-line", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    config = configure(ALGORITHMS[args.algorithm](), args.env, args.num_env_runners)
    config.reporting(min_time_s_per_iteration=args.seconds_per_line).debugging(seed=args.seed)
    if args.algorithm != "impala":
        config.training(aggregation=args.aggregation)
    algorithm = config.build_algo()
    steps, best = 0, float("-inf")
    while steps < args.steps:
        result = algorithm.train()
        runners = result.get("env_runners", {})  # asynchronous: the first results may take a while
        steps = int(runners.get("num_env_steps_sampled_lifetime", steps))
        mean = runners.get("episode_return_mean", float("nan"))
        best = max(best, mean) if mean == mean else best
        print(f"steps {steps:8d}  seconds {result['time_total_s']:7.0f}  return {mean:8.1f}  best {best:8.1f}", flush=True)
    algorithm.stop()


if __name__ == "__main__":
    main()
