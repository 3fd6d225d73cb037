"""What every algorithm of this package adds to RLlib's: restoring an older checkpoint in place reaches the env runners."""

from __future__ import annotations

from typing import Any

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO


class RestoringAlgorithm(Algorithm):
    """Env runners of Ray 2.60 keep weights that have seen more updates than those they are sent."""

    learner_group: Any

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, then the env runners."""
        super().set_state(state)
        self._force_weights()

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """RLlib's, then the env runners."""
        super().restore_from_path(path, *args, **kwargs)  # type: ignore[no-untyped-call]
        self._force_weights()

    def _force_weights(self) -> None:
        state = self.learner_group.get_state(components=f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}", inference_only=True)[
            COMPONENT_LEARNER
        ]
        weights, seq_no = state[COMPONENT_RL_MODULE], state[WEIGHTS_SEQ_NO]
        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                # Number 0 forces the weights and leaves the runner's own number as it is; the second call lowers that.
                for number in (0, seq_no):
                    group.foreach_env_runner(
                        "set_state", kwargs={"state": {COMPONENT_RL_MODULE: weights, WEIGHTS_SEQ_NO: number}}
                    )
