"""Restoring a checkpoint in place: all of it or nothing, and such that an older one reaches the env runners."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import pyarrow.fs
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.core import COMPONENT_LEARNER, COMPONENT_RL_MODULE
from ray.rllib.utils.metrics import WEIGHTS_SEQ_NO

from rllib_agg.aggregation.checkpoint_files import check_checkpoint
from rllib_agg.aggregation.config_base import StrictConfig


class RestoringAlgorithm(Algorithm):
    """RLlib's, whose env runners in Ray 2.60 keep their weights if these have seen more updates than those they are sent."""

    config_class: ClassVar[type[StrictConfig]]
    config: Any
    learner_group: Any
    env_runner_group: Any
    metrics: Any
    _is_undone = False
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
        """RLlib's; what does not fit changes nothing."""
        with self._undone_on_error():
            self.apply_state(state)

    def restore_from_path(
        self, path: Any, *, component: str | None = None, filesystem: pyarrow.fs.FileSystem | None = None, **kwargs: Any
    ) -> None:
        """RLlib's; what is damaged, not complete or does not fit raises ``ValueError`` and changes nothing."""
        if component is None:
            check_checkpoint(self, path, filesystem)
        else:
            kwargs["component"] = component
        with self._undone_on_error():
            super().restore_from_path(path, filesystem=filesystem, **kwargs)  # type: ignore[no-untyped-call]
            self._force_weights()

    def apply_state(self, state: dict[str, Any]) -> None:
        """Take a state over; whatever is raised is undone."""
        super().set_state(state)
        self._force_weights()

    def undo_state(self) -> dict[str, Any]:
        """What :meth:`apply_state` needs to undo a change."""
        return self.get_state()

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        if self._is_undone:  # by who has called
            yield
            return
        before = copy.deepcopy(self.undo_state())
        self._is_undone = True
        try:
            yield
        except Exception:
            self.apply_state(before)
            raise
        finally:
            self._is_undone = False

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
