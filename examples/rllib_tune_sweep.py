"""Search over aggregations with Ray Tune: python examples/rllib_tune_sweep.py

Trials that fall behind are stopped; failed ones continue from their checkpoint.
"""

import argparse

from ray import tune

from rllib_agg import AggPPO, AggPPOConfig

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--aggregations", nargs="+", default=["sum", "mean", "r_weighted", "l_weighted"])
parser.add_argument("--iterations", type=int, default=30)
parser.add_argument("--train-batch-size", type=int, default=2000)
parser.add_argument("--out", default=None, help="where Tune writes; its own folder if left out")
args = parser.parse_args()

config = AggPPOConfig().environment("CartPole-v1").env_runners(num_env_runners=0, num_envs_per_env_runner=8)
config.training(
    aggregation=tune.grid_search(args.aggregations),
    train_batch_size_per_learner=args.train_batch_size,
    minibatch_size=250,
    num_epochs=8,
    lr=1e-3,
)
scheduler = tune.schedulers.ASHAScheduler(max_t=args.iterations, grace_period=max(1, args.iterations // 3))
results = tune.Tuner(
    AggPPO,
    param_space=config,
    tune_config=tune.TuneConfig(metric="env_runners/episode_return_mean", mode="max", scheduler=scheduler),
    run_config=tune.RunConfig(
        storage_path=args.out,
        stop={"training_iteration": args.iterations},
        failure_config=tune.FailureConfig(max_failures=2),
        checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=10),
    ),
).fit()
for result in results:
    print(f"{result.config['aggregation']:>12}  {result.metrics['env_runners'].get('episode_return_mean', float('nan')):6.1f}")
