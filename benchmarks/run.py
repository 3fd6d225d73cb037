"""Run a benchmark: ``python benchmarks/run.py sb3``. Each writes ``benchmarks/results/<name>.csv``."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(path.stem for path in HERE.glob("*.py") if path.stem not in ("run", "record", "turns", "limit"))


def main() -> None:
    """Run the benchmark named on the command line with the rest of the line as its arguments."""
    if len(sys.argv) < 2 or sys.argv[1] not in NAMES:
        sys.exit(f"usage: python benchmarks/run.py NAME [--help]; NAME is one of {', '.join(NAMES)}")
    sys.path.insert(0, str(HERE))
    importlib.import_module(sys.argv[1]).main(sys.argv[2:])


if __name__ == "__main__":
    main()
