"""How much two of eight agents with broken sensors count under the weighting rules: ``examples/studies/broken_sensors.yaml``.

Equal agents would count a quarter together, and R-Weighted's floor leaves them an eighth.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

import numpy as np
import record

from rl_agg.study import load_study
from rl_agg.study.spec.study import Cell
from sb3_agg import AggPPO
from sb3_agg.study import Sb3Runner

STUDY = record.HERE.parent / "examples" / "studies" / "broken_sensors.yaml"
BROKEN = (0, 1)


class SharesPPO(AggPPO):
    """Puts into its record how much the broken agents counted, on average over the steps of an update."""

    def train(self) -> None:
        super().train()
        assert self.agent_weights is not None
        weights = np.asarray(self.agent_weights, dtype=np.float64)
        self.logger.record("agg/broken_share", weights[list(BROKEN)].sum() / weights.sum())


def main(arguments: list[str]) -> None:
    """Measure and write ``results/broken_sensors.csv``."""
    parser = argparse.ArgumentParser(prog="run.py broken_sensors", description=__doc__)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for cell in load_study(STUDY).cells:
        if cell.system_name in ("R-Weighted", "L-Weighted") and cell.seed < options.seeds:
            shares = _shares(cell)
            third = len(shares) // 3
            rows.append(
                {
                    "environment": cell.environment_name,
                    "system": cell.system_name,
                    "seed": cell.seed,
                    "first_third": round(float(np.mean(shares[:third])), 3),
                    "afterwards": round(float(np.mean(shares[third:])), 3),
                }
            )
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    record.write("broken_sensors", rows, ["rl-agg", "stable-baselines3", "torch", "gymnasium", "numpy"])


def _shares(cell: Cell) -> list[float]:
    telling = dataclasses.replace(cell, system=dataclasses.replace(cell.system, system=f"{__name__}:SharesPPO"))
    return [update.scalars["agg/broken_share"] for update in Sb3Runner().run(telling, lambda update, fraction: None)]
