"""The event loop: broadcast, an episode per agent, messages, an update of the centre.

Source: Gunn (2023), algorithm 2.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Protocol

import numpy as np
import ray
from numpy.typing import NDArray
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.utils.metrics import (
    ENV_RUNNER_RESULTS,
    ENV_RUNNER_SAMPLING_TIMER,
    EPISODE_LEN_MAX,
    EPISODE_LEN_MEAN,
    EPISODE_LEN_MIN,
    EPISODE_RETURN_MAX,
    EPISODE_RETURN_MEAN,
    EPISODE_RETURN_MIN,
    LEARNER_RESULTS,
    LEARNER_UPDATE_TIMER,
    NUM_ENV_STEPS_SAMPLED,
    NUM_ENV_STEPS_SAMPLED_LIFETIME,
    NUM_EPISODES,
    NUM_EPISODES_LIFETIME,
    TIMERS,
)

from rl_agg.communication import Ledger
from rl_agg.episodes import Report, buffer_bytes, merge
from rllib_agg.aggregation.algorithm import RestoringAlgorithm
from rllib_agg.episodic.env_runner import Failure

logger = logging.getLogger(__name__)

STATE = "centre"
SECONDS_BETWEEN_PROBES = 0.1


class Centre(Protocol):
    """What learns."""

    ledger: Ledger
    measures: dict[str, float]
    num_updates: int
    num_skipped: int
    num_masked: int

    def order(self) -> Any:
        """What to send to the agents."""

    def receive(self, report: Report) -> None:
        """Learn from all agents' reports."""

    def state_dict(self) -> dict[str, Any]:
        """All that decides how it goes on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there."""


class EpisodicAlgorithm(RestoringAlgorithm):
    """Runs the loop; a subclass says what the centre is and how it gets into the module."""

    centre: Centre
    agents: Any
    """What runs episodes, for what it knows of the environment; its own are closed."""

    report: Report
    """Of the last update."""

    def make_centre(self) -> Centre:
        """Build the centre, with the module as it is at the beginning."""
        raise NotImplementedError

    def read_module(self) -> None:
        """Let the centre go on from what is in the module."""

    def write_module(self) -> None:
        """Put what the centre has learned into the module."""
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
            self.centre.ledger.upload(np.zeros(self.config.population, dtype=np.int64), physical_bytes=physical_bytes)
            self._publish()
        self._log(report)

    def _collect(self, order: Any) -> tuple[Report | None, int]:
        """Have all agents and the centre run an episode.

        :return: Their reports together, and the bytes that were moved between processes.
        :raises RuntimeError: if an environment raised.
        """
        everyone = np.arange(self.config.population + 1)
        if self.env_runner_group.num_remote_env_runners() == 0:
            return merge(_sound([self.env_runner.run_agents(order, everyone)])), 0
        reports: list[Report] = []
        missing, moved, sent = everyone, 0, ray.put(order)
        deadline = time.monotonic() + self.config.sample_timeout_s
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
                "%d of %d agents did not come back within sample_timeout_s=%s seconds and are left out.",
                missing.size,
                everyone.size,
                self.config.sample_timeout_s,
            )
        return (merge(reports) if reports else None), moved

    def _ask(self, runners: list[int], order: Any, parts: list[NDArray[np.int64]], seconds: float) -> list[Any]:
        """Send each runner its part; those that die or do not answer in time are missing from what is returned."""
        answers: list[Any] = self.env_runner_group.foreach_env_runner(
            "run_agents",
            kwargs=[{"order": order, "agents": part} for part in parts],
            remote_worker_ids=runners,
            local_env_runner=False,
            timeout_seconds=max(seconds, 0.001),
        )
        return answers

    def _publish(self) -> None:
        self.write_module()
        self.learner.weights_seq_no += 1
        if self.env_runner is not None:  # where get_module() and evaluation without runners of its own look
            self.env_runner.set_state(self.module_state(inference_only=True))

    def _log(self, report: Report) -> None:
        agents, sound = report.agents < self.config.population, report.present
        returns, lengths = report.returns[agents & sound], report.lengths[agents & sound]
        log = self.metrics.log_value
        if returns.size:
            reduced = {
                EPISODE_RETURN_MEAN: returns.mean(),
                EPISODE_RETURN_MIN: returns.min(),
                EPISODE_RETURN_MAX: returns.max(),
                EPISODE_LEN_MEAN: lengths.mean(),
                EPISODE_LEN_MIN: lengths.min(),
                EPISODE_LEN_MAX: lengths.max(),
            }
            for name, value in reduced.items():
                log((ENV_RUNNER_RESULTS, name), float(value), window=1)
        if (sound & ~agents).any():
            log((ENV_RUNNER_RESULTS, "centre", EPISODE_RETURN_MEAN), float(report.returns[~agents][0]), window=1)
            log((ENV_RUNNER_RESULTS, "centre", EPISODE_LEN_MEAN), float(report.lengths[~agents][0]), window=1)
        counts = {NUM_ENV_STEPS_SAMPLED: int(report.lengths.sum()), NUM_EPISODES: len(report.agents)}
        lifetimes = {NUM_ENV_STEPS_SAMPLED: NUM_ENV_STEPS_SAMPLED_LIFETIME, NUM_EPISODES: NUM_EPISODES_LIFETIME}
        for name, count in counts.items():
            log((ENV_RUNNER_RESULTS, name), count, reduce="sum")
            log((ENV_RUNNER_RESULTS, lifetimes[name]), count, reduce="lifetime_sum", with_throughput=True)
        centre = self.centre
        totals = {
            "updates": centre.num_updates,
            "skipped_updates": centre.num_skipped,
            "masked_agents": centre.num_masked,
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
        """RLlib's, with the centre."""
        super().set_state(state)
        if STATE in state:
            self.centre.load_state_dict(state[STATE])


def _sound(answers: list[Any]) -> list[Report]:
    for answer in answers:
        if isinstance(answer, Failure):
            raise RuntimeError(f"an agent's episode raised:\n{answer.text}")
    return answers
