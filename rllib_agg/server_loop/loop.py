"""The event loop: a server broadcasts, agents on the env runners run episodes, the server learns from their reports.

Source: Gunn (2023), algorithm 2.
"""

from __future__ import annotations

import logging
import math
import time
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
from rllib_agg.aggregation.timeouts import SECONDS_BETWEEN_PROBES, deadline_of
from rllib_agg.server_loop.env_runner import Failure, OutOfStep
from rllib_agg.server_loop.metrics import log_sampled, log_trained

logger = logging.getLogger(__name__)

STATE = "server"


class Server(Protocol):
    """What learns."""

    measures: dict[str, float]
    num_updates: int
    num_skipped: int

    @property
    def ledger(self) -> Ledger:
        """What was sent and received so far."""

    def broadcast(self) -> Any:
        """What to send to the agents."""

    def receive(self, report: Any) -> None:
        """Learn from the reports of all agents."""

    def state_dict(self) -> dict[str, Any]:
        """All that later updates depend on."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore :meth:`state_dict`."""


class ServerAlgorithm(RestoringAlgorithm):
    """Runs the loop; a subclass builds the server, numbers the participants and logs their reports."""

    server: Server
    agents: Any
    """What runs episodes, for what it knows of the environment; its own environments are closed."""

    report: Any
    """Of the last update."""

    def make_server(self) -> Server:
        """Build the server, with the module as it is at the beginning."""
        raise NotImplementedError

    def read_module(self) -> None:
        """Take over what is in the module, where the server keeps a copy."""

    def write_module(self) -> None:
        """Write what the server has learned into the module, where the server keeps a copy."""

    def participants(self) -> NDArray[np.int64]:
        """The numbers of all that take part in a round."""
        raise NotImplementedError

    def whole_broadcast(self) -> Any:
        """The server's broadcast for env runners that lack what they were sent before."""
        return self.server.broadcast()

    def join_reports(self, reports: list[Any]) -> Any:
        """Put reports together, each of which lists its participants in ``agents``."""
        raise NotImplementedError

    def log_episodes(self, report: Any) -> tuple[int, int]:
        """Log returns and lengths; returns how many environment steps and episodes they were."""
        raise NotImplementedError

    def num_trained(self, num_sampled: int) -> int:
        """How many environment steps the last round learned from; all that were sampled, unless there is a replay."""
        return num_sampled

    def setup(self, config: Any) -> None:
        """RLlib's, then the server; ``ValueError`` if the environment cannot be used."""
        # First: a module cannot be built for spaces that do not fit, and RLlib's error would not say why.
        self.agents = self.config.open_agents()
        self.agents.close()
        super().setup(config)
        self.learner = self.local_learner
        self.server = self.make_server()
        if self.config.rl_module_spec.load_state_path is not None:
            self.read_module()
        self._publish()

    @property
    def module(self) -> Any:
        """The learner's module."""
        return self.learner.module[DEFAULT_MODULE_ID]

    def training_step(self) -> None:
        """One update; none if no report came back, and then the next call repeats it."""
        self.read_module()
        with self.metrics.log_time((TIMERS, ENV_RUNNER_SAMPLING_TIMER)):
            report, physical_bytes = self._collect(self.server.broadcast())
        if report is None:
            logger.warning("No env runner answered; the next iteration repeats the update.")
            return
        self.report = report
        with self.metrics.log_time((TIMERS, LEARNER_UPDATE_TIMER)):
            self.server.receive(report)
            self.server.ledger.physical_bytes += physical_bytes
            self._publish()
        self.log_round(report)

    def _collect(self, broadcast: Any) -> tuple[Any, int]:
        """Have all participants run.

        :return: Their reports together, ``None`` if there is none, and the bytes that were moved between processes.
        :raises RuntimeError: if an environment raised.
        """
        missing = self.participants()
        if self.env_runner_group.num_remote_env_runners() == 0:
            answer = self.env_runner.run_agents(broadcast, missing)
            if isinstance(answer, OutOfStep):
                answer = self.env_runner.run_agents(self.whole_broadcast(), missing)
            return self.join_reports(_raise_failures([answer])), 0
        reports: list[Any] = []
        moved, sent, deadline = 0, ray.put(broadcast), deadline_of(self.config.sample_timeout_s)
        while missing.size and (left := deadline - time.monotonic()) > 0:
            runners = self.env_runner_group.healthy_env_runner_ids()
            if not runners:
                time.sleep(SECONDS_BETWEEN_PROBES)
                self.restore_env_runners(self.env_runner_group)
                if not self.config.restart_failed_env_runners:
                    break
                continue  # as long as there is time: missing reports come from restarted runners
            parts = np.array_split(missing, min(len(runners), len(missing)))
            answers = self.env_runner_group.foreach_env_runner(  # without those of runners that die or take too long
                "run_agents",
                kwargs=[{"broadcast": sent, "agents": part} for part in parts],
                remote_worker_ids=runners[: len(parts)],
                local_env_runner=False,
                timeout_seconds=None if math.isinf(left) else left,
            )
            arrived = [answer for answer in _raise_failures(answers) if not isinstance(answer, OutOfStep)]
            moved += len(parts) * buffer_bytes(broadcast) + sum(buffer_bytes(report) for report in arrived)
            if any(isinstance(answer, OutOfStep) for answer in answers):
                broadcast = self.whole_broadcast()
                sent = ray.put(broadcast)
            reports += arrived
            missing = np.setdiff1d(missing, np.concatenate([missing[:0], *(report.agents for report in arrived)]))
        if missing.size and reports:
            logger.warning(
                "%d reports did not arrive within sample_timeout_s=%s seconds and are left out.",
                missing.size,
                self.config.sample_timeout_s,
            )
        return (self.join_reports(reports) if reports else None), moved

    def _publish(self) -> None:
        self.write_module()
        self.learner.weights_seq_no += 1
        if self.env_runner is not None:  # where get_module() and evaluation without runners of its own look
            self.env_runner.set_state(self.module_state(inference_only=True))

    def log_round(self, report: Any) -> None:
        """Log episodes, the server's counts and its measures."""
        log = self.metrics.log_value
        num_steps, num_episodes = self.log_episodes(report)
        log_sampled(log, num_steps, num_episodes, prefix=(ENV_RUNNER_RESULTS,))
        log_trained(log, self.num_trained(num_steps), prefix=(LEARNER_RESULTS,))
        server = self.server
        totals = {
            "updates": server.num_updates,
            "skipped_updates": server.num_skipped,
            **server.ledger.summary(),
            **server.measures,
        }
        for name, total in totals.items():
            log((LEARNER_RESULTS, DEFAULT_MODULE_ID, "agg", name), float(total), window=1)

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        """RLlib's, with the server in a full state."""
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if components is None:
            state[STATE] = self.server.state_dict()
        return state

    def apply_state(self, state: dict[str, Any]) -> None:
        """RLlib's, with the server, which raises before it changes anything."""
        super().apply_state(state)
        if STATE in state:
            self.server.load_state_dict(state[STATE])

    def undo_state(self) -> dict[str, Any]:
        """Without the server, whose replay may be large: it is restored last."""
        return super().get_state()


def _raise_failures(answers: list[Any]) -> list[Any]:
    for answer in answers:
        if isinstance(answer, Failure):
            raise RuntimeError(f"an agent's episode raised:\n{answer}")
    return answers
