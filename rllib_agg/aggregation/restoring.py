"""Restoring an older checkpoint in place, such that it reaches the env runners."""

from __future__ import annotations

from typing import Any, ClassVar

from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rllib_agg.aggregation.config_base import StrictConfig


class RestoringAlgorithm(Algorithm):
    """RLlib's, whose env runners in Ray 2.60 keep their weights if these have seen more updates than those they are sent."""

    config_class: ClassVar[type[StrictConfig]]
    config: Any
    learner_group: Any
    env_runner_group: Any
    metrics: Any
    runners_need_whole_module = False
    """Whether env runners hold what only training needs, such as a value function."""

    @classmethod
    def get_default_config(cls) -> Any:
        """The config it is built from."""
        return cls.config_class()

    def __repr__(self) -> str:
        # In a Ray actor whose construction failed, RLlib's own fails on the missing config, and hides why.
        return type(self).__name__ if self.config is None else super().__repr__()  # type: ignore[no-untyped-call]

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, then the env runners."""
        super().set_state(state)
        self._force_weights()

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """RLlib's, then the env runners."""
        super().restore_from_path(path, *args, **kwargs)  # type: ignore[no-untyped-call]
        self._force_weights()

    @property
    def local_learner(self) -> Any:
        """The only learner, in this process."""
        return self.learner_group.foreach_learner(lambda learner: learner).result_or_errors[0].get()

    def module_state(self, *, inference_only: bool) -> dict[str, Any]:
        """The learners' weights and their number of updates, as ``set_state`` of an env runner takes them."""
        component = f"{COMPONENT_LEARNER}/{COMPONENT_RL_MODULE}"
        state = self.learner_group.get_state(components=component, inference_only=inference_only)[COMPONENT_LEARNER]
        return {name: state[name] for name in (COMPONENT_RL_MODULE, WEIGHTS_SEQ_NO)}

    def _force_weights(self) -> None:
        state = self.module_state(inference_only=not self.runners_need_whole_module)

        def force(env_runner: Any) -> None:
            # Number 0 forces the weights and leaves the runner's own number as it is; the second call lowers that.
            env_runner.set_state({**state, WEIGHTS_SEQ_NO: 0})
            env_runner.set_state(state)

        for group in (self.env_runner_group, self.eval_env_runner_group):
            if group is not None:
                group.foreach_env_runner(force, timeout_seconds=self.config.env_runner_restore_timeout_s)
