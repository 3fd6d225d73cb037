"""Record what the twelve systems end at: ``python -m tests.contract.record``, where a change of a number is meant."""

from __future__ import annotations

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray

from tests.contract.systems import SYSTEMS, Parts, run

RECORDS = Path(__file__).with_name("records.json")


def machine() -> str:
    """What decides the last bit: the processor, what it can do, and the libraries that compute."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    known = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    processor, *details = (known.get(name, "") for name in ("model name", "cpu family", "model", "flags"))
    features = hashlib.sha256(" ".join(details).encode()).hexdigest()[:8]
    libraries = f"torch {torch.__version__.partition('+')[0]}, numpy {np.__version__}"
    return f"{processor or platform.machine()} ({features}), {libraries}"


def summary(parts: Parts) -> dict[str, dict[str, Any]]:
    """A hash of each part's bytes, and numbers that hold on other processors too."""
    return {
        name: {
            "sha256": hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest(),
            "size": values.size,
            "sum": float(_finite(values).sum()),
            "norm": float(np.sqrt(np.square(_finite(values)).sum())),
        }
        for name, values in parts.items()
    }


def _finite(values: NDArray[Any]) -> NDArray[np.float64]:
    """What is finite, in a row: bounds of an observation may not be."""
    flat = values.astype(np.float64).ravel()
    return flat[np.isfinite(flat)]


def main() -> None:
    """Run all and write the file."""
    ray.init(num_cpus=8, include_dashboard=False, log_to_driver=False)
    systems = {name: summary(run(name)) for name in SYSTEMS}
    RECORDS.write_text(json.dumps({"machine": machine(), "systems": systems}, indent=1) + "\n")


if __name__ == "__main__":
    main()
