"""An algorithm with a replay that knows the agents."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.dqn import DQN

from rllib_agg.aggregation._compat import OwnReplay
from rllib_agg.aggregation.restoring import RestoringAlgorithm
from rllib_agg.replay.buffers import REPLAYS, AgentReplay

REPLAY = "local_replay_buffer"
"""Where RLlib's old API stack has the replay in a state."""


class ReplayAlgorithm(RestoringAlgorithm, OwnReplay, DQN):
    """RLlib's DQN, or what is derived from it; what else differs is in its learner."""

    local_replay_buffer: Any

    def make_replay(self, config: Any) -> AgentReplay:
        """RLlib's replay of that type, with agents."""
        settings = dict(self.config.replay_buffer_config)
        return REPLAYS[settings.pop("type")](
            seed=self.config.seed,
            metrics_num_episodes_for_smoothing=self.config.metrics_num_episodes_for_smoothing,
            **settings,
        )

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's; a full one with the replay if ``store_buffer_in_checkpoints``, which RLlib's new API stack ignores."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None and self.config.store_buffer_in_checkpoints:
            state[REPLAY] = self.local_replay_buffer.get_state()
        return state

    def apply_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with the replay if the state has one."""
        super().apply_state(state)
        if REPLAY in state:
            self.local_replay_buffer.set_state(state[REPLAY])
