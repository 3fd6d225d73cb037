"""The event loop: a centre broadcasts, those spread over the env runners play, it learns from their reports.

Source: Gunn (2023), algorithm 2.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import ray
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    TIMERS,
)

from rl_agg.ledger import Ledger
from rl_agg.population import buffer_bytes
from rllib_agg.aggregation.restoring import RestoringAlgorithm
from rllib_agg.aggregation.timeouts import deadline_of
from rllib_agg.server_loop.env_runner import Failure
from rllib_agg.server_loop.metrics import log_sampled

logger = logging.getLogger(__name__)

STATE = "centre"
SECONDS_BETWEEN_PROBES = 0.1


class Centre(Protocol):
    """What learns."""

    ledger: Ledger
    measures: dict[str, float]
    num_updates: int
    num_skipped: int

    def order(self) -> Any:
        """What to broadcast."""

    def receive(self, report: Any) -> None:
        """Learn from all reports."""

    def state_dict(self) -> dict[str, Any]:
        """All that decides how it goes on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


class CentralAlgorithm(RestoringAlgorithm):
    """Runs the loop; a subclass says what the centre is, who plays and what is logged of it."""

    centre: Centre
    agents: Any
    """What runs episodes, for what it knows of the environment; its own are closed."""

    report: Any
    """Of the last update."""

    def make_centre(self) -> Centre:
        """Build the centre, with the module as it is at the beginning."""
        raise NotImplementedError

    def read_module(self) -> None:
        """Let the centre go on from what is in the module, where it keeps what it learned itself."""

    def write_module(self) -> None:
        """Put what the centre has learned into the module, where it keeps that itself."""

    def everyone(self) -> NDArray[np.int64]:
        """The numbers of all that take part in a round."""
        raise NotImplementedError

    def merge_reports(self, reports: list[Any]) -> Any:
        """Put reports, which name who made them in ``agents``, together."""
        raise NotImplementedError

    def log_episodes(self, report: Any) -> tuple[int, int]:
        """Log what became of the episodes.

        :return: How many environment steps and episodes they were.
        """
        raise NotImplementedError

    def setup(self, config: Any) -> None:
        """RLlib's, then the centre.

        :raises ValueError: if the environment cannot be used.
        """
        # First of all: a module cannot be built for spaces that do not fit, and RLlib would not say why.
        self.agents = self.config.open_agents()
        self.agents.close()
        super().setup(config)
        self.learner = self.learner_group.foreach_learner(lambda learner: learner).result_or_errors[0].get()
        self.centre = self.make_centre()
        if self.config.rl_module_spec.load_state_path is not None:
            self.read_module()
        self._publish()

    @property
    def module(self) -> Any:
        """The learner's module."""
        return self.learner.module[DEFAULT_MODULE_ID]

    def training_step(self) -> None:
        """One update; none if not a single agent came back, and then the next call tries this one again."""
        self.read_module()
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            report, physical_bytes = self._collect(self.centre.order())
        if report is None:
            logger.warning("No env runner answered; the update is tried again in the next iteration.")
            return
        self.report = report
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            self.centre.receive(report)
            self.centre.ledger.physical_bytes += physical_bytes
            self._publish()
        self.log_round(report)

    def _collect(self, order: Any) -> tuple[Any, int]:
        """Have everyone play.

        :return: Their reports together, ``None`` if there is none, and the bytes that were moved between processes.
        :raises RuntimeError: if an environment raised.
        """
        everyone = self.everyone()
        if self.env_runner_group.num_remote_env_runners() == 0:
            return self.merge_reports(_sound([self.env_runner.run_agents(order, everyone)])), 0
        reports: list[Any] = []
        missing, moved, sent = everyone, 0, ray.put(order)
        deadline = deadline_of(self.config.sample_timeout_s)
        while missing.size and time.monotonic() < deadline:
            runners = self.env_runner_group.healthy_env_runner_ids()
            if not runners:
                time.sleep(SECONDS_BETWEEN_PROBES)
                self.restore_env_runners(self.env_runner_group)
                if reports or not self.config.restart_failed_env_runners:
                    break
                continue
            parts = np.array_split(missing, min(len(runners), len(missing)))
            arrived = _sound(self._ask(runners[: len(parts)], sent, parts, deadline - time.monotonic()))
            moved += len(parts) * buffer_bytes(order) + sum(buffer_bytes(report) for report in arrived)
            reports += arrived
            missing = np.setdiff1d(everyone, np.concatenate([report.agents for report in reports])) if reports else everyone
        if missing.size and reports:
            logger.warning(
                "%d of %d did not come back within sample_timeout_s=%s seconds and are left out.",
                missing.size,
                everyone.size,
                self.config.sample_timeout_s,
            )
        return (self.merge_reports(reports) if reports else None), moved

    def _ask(self, runners: list[int], order: Any, parts: list[NDArray[np.int64]], seconds: float) -> list[Any]:
        """Send each runner its part; those that die or do not answer in time are missing from what is returned."""
        answers: list[Any] = self.env_runner_group.foreach_env_runner(
            "run_agents",
            kwargs=[{"order": order, "agents": part} for part in parts],
            remote_worker_ids=runners,
            local_env_runner=False,
            timeout_seconds=None if math.isinf(seconds) else max(seconds, 0.001),
        )
        return answers

    def _publish(self) -> None:
        self.write_module()
        self.learner.weights_seq_no += 1
        if self.env_runner is not None:  # where get_module() and evaluation without runners of its own look
            self.env_runner.set_state(self.module_state(inference_only=True))

    def log_round(self, report: Any) -> None:
        """Log counts, and what the centre says of itself."""
        log = self.metrics.log_value
        num_steps, num_episodes = self.log_episodes(report)
        log_sampled(log, num_steps, num_episodes, prefix=(ENV_RUNNER_RESULTS,))
        centre = self.centre
        totals = {
            "updates": centre.num_updates,
            "skipped_updates": centre.num_skipped,
            **centre.ledger.summary(),
            **centre.measures,
        }
        for name, total in totals.items():
            log((LEARNER_RESULTS, DEFAULT_MODULE_ID, "agg", name), float(total), window=1)

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's, with the centre in a full state."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state[STATE] = self.centre.state_dict()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with the centre; what does not fit changes nothing."""
        with self._undone_on_error():
            super().set_state(state)
            if STATE in state:
                self.centre.load_state_dict(state[STATE])

    def restore_from_path(self, path: Any, *args: Any, **kwargs: Any) -> None:
        """RLlib's; what does not fit changes nothing."""
        with self._undone_on_error():
            super().restore_from_path(path, *args, **kwargs)

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        # Without the centre, whose replay may be large: it comes last, and refuses what does not fit before it takes any.
        before = copy.deepcopy(super().get_state())
        try:
            yield
        except Exception:
            super().set_state(before)
            raise


def _sound(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Failure):
            raise RuntimeError(f"an agent's episode raised:\n{answer.text}")
    return answers
