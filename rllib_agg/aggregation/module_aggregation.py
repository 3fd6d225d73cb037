"""What becomes of one module's gradients: a weighted loss, a parameter server, or learners that go their own ways."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import tree  # type: ignore[import-untyped]

from rl_agg import Ledger, Weighting


class ModuleAggregation:
    """One module's rule, combiner or scheme, with what it remembers.

    :param config: The module's algorithm config.
    :param num_learners: L.
    """

    def __init__(self, config: Any, num_learners: int) -> None:
        made = config.make_aggregation()
        self.weighting = made if isinstance(made, Weighting) else None
        self.server = config.make_server()
        self.scheme = config.make_scheme()
        self.ledger = Ledger(config.num_agents if self.scheme is None else num_learners)
        """Of the agents, or of the learners where those are the clients."""

    @property
    def needs(self) -> frozenset[str]:
        """Signals that the rule reads."""
        return frozenset() if self.weighting is None else self.weighting.needs

    @property
    def one_backward(self) -> bool:
        """Whether one backward pass, averaged over learners, yields the gradient."""
        return self.server is None and self.scheme is None

    def get_state(self) -> dict[str, Any]:
        """For a checkpoint."""
        server = None if self.server is None else tree.map_structure(_to_array, self.server.state_dict())
        return {"ledger": self.ledger.state_dict(), "server": server}

    def set_state(self, state: dict[str, Any]) -> None:
        """From a checkpoint; what goes with other settings starts afresh."""
        self.ledger.load_state_dict(state["ledger"])
        if self.server is not None and state["server"] is not None:
            self.server.load_state_dict(tree.map_structure(_to_tensor, state["server"]))


def _to_array(leaf: Any) -> Any:
    return leaf.cpu().numpy().copy() if isinstance(leaf, torch.Tensor) else leaf


def _to_tensor(leaf: Any) -> Any:
    return torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf
