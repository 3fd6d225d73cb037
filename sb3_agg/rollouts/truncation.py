"""Episodes that a time limit cut off. Axis A: agents."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def truncated_agents(infos: list[dict[str, Any]], dones: NDArray[np.bool_]) -> list[int]:
    """The agents for whose last state SB3 asks for a value, in its order.

    :param infos: Of one step, A dictionaries.
    :param dones: Whose episodes ended ``[A]``.
    """
    return [
        agent
        for agent in np.flatnonzero(dones).tolist()
        if infos[agent].get("terminal_observation") is not None and infos[agent].get("TimeLimit.truncated", False)
    ]
