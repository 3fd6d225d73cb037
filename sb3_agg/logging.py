"""What an algorithm tells of its agents: numbers for the logger, and warnings. Axis A: agents."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rl_agg import Ledger, Signals


class TellingMixin:
    """The part of :class:`~sb3_agg.mixin.AggregationMixin` that logs and warns."""

    aggregation: Any
    logger: Any
    agent_weights: NDArray[np.float64]
    """Mean weight of each agent in the last update ``[A]``."""
    ledger: Ledger
    """What the agents have sent so far."""
    _needs: frozenset[str]

    def _set_up_telling(self) -> None:
        self._warned: set[str] = set()

    def _record(self, masked: int, skipped: int, mixed_sign: int = 0, weights: torch.Tensor | None = None) -> None:
        record = self.logger.record
        if weights is not None and len(weights):  # [steps, A]
            shares = weights / weights.sum(1, keepdim=True)
            record("agg/weight_min", weights.min(1).values.mean().item())
            record("agg/weight_max", weights.max(1).values.mean().item())
            record("agg/effective_agents", (1 / shares.square().sum(1)).nanmean().item())
            self.agent_weights = weights.mean(0).cpu().numpy().astype(np.float64)
        record("agg/masked_agents", masked)
        record("agg/mixed_sign_updates", mixed_sign)
        record("agg/skipped_updates", skipped)
        record("agg/messages", self.ledger.messages)
        record("agg/bytes", self.ledger.bytes)
        record("agg/bytes_down", self.ledger.bytes_down)

    def _warn_about(self, signals: Signals, present: NDArray[np.bool_]) -> None:
        if not present.all():
            agents = ", ".join(map(str, np.flatnonzero(~present)))
            self._warn_once(
                f"agent {agents} had a NaN or infinite observation, reward, value or return; it is masked for as long as that "
                "lasts, see agg/masked_agents",
                kind="masked",
                stacklevel=4,
            )
        if not present.any() and self.get_vec_normalize_env() is not None:  # type: ignore[attr-defined]
            self._warn_once(
                "no agent is left to learn from. VecNormalize keeps a NaN in its statistics for good, and with it in every "
                "reward: load statistics that were saved before",
                stacklevel=4,
            )
        if "returns" in self._needs and signals.returns is not None and bool(signals.returns.isnan().all()):
            self._warn_once(
                f"no agent has finished an episode yet, so {self.aggregation} weighs them equally: raise n_steps, set "
                "min_episodes=1, or give the environment a time limit",
                stacklevel=4,
            )

    def _warn_once(self, message: str, kind: str | None = None, stacklevel: int = 3) -> None:
        if (kind or message) not in self._warned:
            self._warned.add(kind or message)
            warnings.warn(message, UserWarning, stacklevel=stacklevel)  # SB3's line, not ours
