"""Logged numbers and warnings about the agents. Axis A: agents."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg import Ledger, Signals
from rl_agg.diagnostics import weight_summary
from sb3_agg.hooks.base import Update


class LoggingMixin:
    """The part of :class:`~sb3_agg.mixin.AggregationMixin` that logs and warns."""

    aggregation: Any
    logger: Any
    agent_weights: NDArray[np.float64]
    """Mean weight of each agent in the last update ``[A]``."""
    exchange: Any
    ledger: Ledger
    """Messages and bytes that the agents have sent so far."""
    n_envs: int
    """A."""
    _needs: Any
    """Signals that the rule reads, a ``frozenset``."""

    def _set_up_logging(self) -> None:
        self._warned: set[str] = set()
        self._totals: dict[str, int] = getattr(self, "_totals", {})  # of a loaded model

    def _record(self, update: Update | None) -> None:
        """Log an update.

        :param update: ``None``: it was skipped, as no agent had usable data.
        """
        if update is None:
            self._record_counts(self.n_envs, mixed_sign_updates=0, skipped_updates=1)
            return
        weights = update.weights()
        if len(weights):  # [steps, A]
            for name, value in weight_summary(weights, update.present_of_weights()).items():
                self.logger.record(f"agg/{name}", value)
            self.agent_weights = weights.mean(0).cpu().numpy().astype(np.float64)
        for name, setting in self.exchange.followed.items():
            self.logger.record(f"agg/{name}", setting)
        self._record_counts(
            update.num_masked, mixed_sign_updates=update.num_mixed_sign(), skipped_updates=update.skipped_steps
        )

    def _record_counts(self, masked: int, **counts: int) -> None:
        """Log who was masked, what happened in an update, and what was sent so far."""
        self.logger.record("agg/masked_agents", masked)
        for name, count in counts.items():
            self._totals[name] = self._totals.get(name, 0) + count
            self.logger.record(f"agg/{name}", count)
            self.logger.record(f"agg/{name}_lifetime", self._totals[name], exclude="stdout")
        self.logger.record("agg/messages", self.ledger.messages)
        self.logger.record("agg/bytes", self.ledger.bytes)
        self.logger.record("agg/bytes_down", self.ledger.bytes_down)

    def _warn_about(self, signals: Signals, present: NDArray[np.bool_]) -> None:
        if not present.all():
            agents = ", ".join(map(str, np.flatnonzero(~present)))
            self._warn_once(
                f"agent {agents} had a NaN or infinite observation, reward, value or return; it is masked for as long as that "
                "lasts, see agg/masked_agents",
                kind="masked",
            )
        if not present.any() and self.get_vec_normalize_env() is not None:  # type: ignore[attr-defined]
            self._warn_once(
                "no agent is left to learn from. VecNormalize keeps a NaN in its statistics for good, and with it in every "
                "reward: load statistics that were saved before",
            )
        if "returns" in self._needs and signals.returns is not None and bool(signals.returns.isnan().all()):
            self._warn_once(
                f"no agent has finished an episode yet, so {self.aggregation} weighs them equally: raise n_steps, set "
                "min_episodes=1, or give the environment a time limit",
            )

    def _warn_once(self, message: str, kind: str | None = None) -> None:
        if (kind or message) not in self._warned:
            self._warned.add(kind or message)
            warnings.warn(message, UserWarning, stacklevel=_num_own_frames())


def _num_own_frames() -> int:
    """Calls since the last line that is not ours, but SB3's or the user's: the one that a warning names."""
    frame, number = inspect.currentframe(), 0
    while frame is not None and frame.f_globals["__name__"].startswith("sb3_agg."):
        frame, number = frame.f_back, number + 1
    return number
