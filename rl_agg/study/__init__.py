"""Studies: run systems x environments x seeds, and report the results.

>>> from rl_agg.study import load_study, run_study, write_report
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rl_agg.study.analysis.results import Results
    from rl_agg.study.errors import StudyError
    from rl_agg.study.report.writing import write_report
    from rl_agg.study.run.engine import run_study
    from rl_agg.study.spec.loading import load_study, resolve
    from rl_agg.study.spec.study import Budget, Environment, Study, System

__all__ = [
    "Budget",
    "Environment",
    "Results",
    "Study",
    "StudyError",
    "System",
    "load_study",
    "resolve",
    "run_study",
    "write_report",
]

_HOMES = {
    "Results": "analysis.results",
    "StudyError": "errors",
    "load_study": "spec.loading",
    "resolve": "spec.loading",
    "run_study": "run.engine",
    "write_report": "report.writing",
}


def __getattr__(name: str) -> Any:
    """Import on first use: each name needs another extra, and Ray alone takes seconds."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rl_agg.study.errors import extras_named

    with extras_named():
        return getattr(importlib.import_module(f"{__name__}.{_HOMES.get(name, 'spec.study')}"), name)


def __dir__() -> list[str]:
    """What :func:`__getattr__` knows too, for completion and documentation."""
    return sorted({*globals(), *__all__})
