"""Compare two ways of weighing agents on CartPole, from Python: python examples/sb3_compare.py [FOLDER]"""

import sys
from pathlib import Path

from rl_agg.study import Budget, Environment, Study, System, resolve, run_study, write_report

SETTINGS = {"n_steps": 512, "batch_size": None, "n_epochs": 20, "learning_rate": 0.003}

study = Study(
    name="Summed against loss-weighted gradients",
    baseline="Baseline-Sum",
    systems={
        "Baseline-Sum": System("sb3_agg:AggPPO", {"aggregation": "sum"}),
        "L-Weighted": System("sb3_agg:AggPPO", {"aggregation": "l_weighted"}),
    },
    environments={"CartPole-v1": Environment(network="small", settings=SETTINGS)},
    seeds=2,
    budget=Budget(updates=10),
)

if __name__ == "__main__":
    folder = Path((sys.argv[1:2] or ["runs/sb3_compare"])[0])
    failed = run_study(resolve(study), folder)
    for row in write_report(folder).rows:
        print(f"{row.system}: {row.mean_return.value:.1f} over training, {row.end_return.value:.1f} at its end")
    print(folder / "report.html")
    sys.exit(1 if failed else 0)
