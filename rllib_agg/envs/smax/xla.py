"""JAX as this package uses it: on the CPU, on one thread, and with compiled programs kept between runs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rllib_agg.envs.team.extras import import_extra

XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false"
"""One thread: for arrays this small, distributing the work costs more than it saves."""

CACHE_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
"""JAX's own: the folder of compiled programs. An empty one keeps none."""


def prepare_xla() -> None:
    """Set JAX up, unless the user has set otherwise or it is running already."""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # on a GPU it would take most of the learner's memory
    flags = os.environ.get("XLA_FLAGS", "")
    if "xla_cpu_multi_thread_eigen" not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {XLA_FLAGS}".strip()
    jax = import_extra("jax", "smax")
    if CACHE_VARIABLE not in os.environ and jax.config.jax_compilation_cache_dir is None:
        jax.config.update("jax_compilation_cache_dir", str(default_cache()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def default_cache() -> Path:
    """Where programs are kept, in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rl-agg" / "jax"


def compile_program(title: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Compile a function for arguments of these shapes, and print how long it takes.

    Ahead of time: arguments of another type then raise an error instead of compiling again.
    """
    import jax

    began = time.monotonic()
    print(f"{title}: compiling ...", file=sys.stderr, flush=True)
    program = jax.jit(function).lower(*arguments).compile()
    print(f"{title}: compiled in {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    return program
