"""The learner of an algorithm whose server is no network: it holds the module, for evaluation and checkpoints."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from rllib_agg.aggregation._compat import HookedLearner


class ServerLearner(HookedLearner):
    """Holds what the server writes into the module. There is no loss, and nothing to differentiate."""

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """There is none; always raises ``NotImplementedError``."""
        raise NotImplementedError(f"{type(self).__name__} learns from reports of whole episodes, not from batches")
