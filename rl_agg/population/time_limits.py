"""After how many steps an environment ends an episode."""

from typing import Any

import gymnasium as gym

ATTRIBUTES = ("max_episode_steps", "max_cycles")
"""Where environments that end episodes themselves say when; the second is PettingZoo's."""


def time_limit(env: Any) -> int | None:
    """Number of steps after which an episode is truncated; ``None`` if there is no limit, or the environment does not say.

    :param env: Gymnasium's, RLlib's or PettingZoo's.
    """
    spec = getattr(env, "spec", None)
    if spec is not None and spec.max_episode_steps is not None:
        return int(spec.max_episode_steps)
    inner = env
    while isinstance(inner, gym.Wrapper):
        if isinstance(inner, gym.wrappers.TimeLimit):
            return int(inner._max_episode_steps)
        inner = inner.env
    for owner in (env, getattr(env, "unwrapped", env)):
        for name in ATTRIBUTES:
            limit = getattr(owner, name, None)
            if isinstance(limit, int) and limit >= 1:
                return limit
    return None
