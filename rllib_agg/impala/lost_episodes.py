"""Train batches whose env runners have died: episodes stay with who sampled them until a learner fetches them."""

from __future__ import annotations

from typing import Any


class LostEpisodesMixin:
    """Goes in front of an IMPALA learner."""

    config: Any

    def update(self, training_data: Any, **kwargs: Any) -> dict[str, Any]:
        """RLlib's, which leaves out lost episodes and fails where none is left; then this one does nothing."""
        training_data.solve_refs()
        if training_data.episodes == [] and self.config.num_learners < 2:  # several wait for each other
            return {}
        result: dict[str, Any] = super().update(training_data, **kwargs)  # type: ignore[misc]
        return result
