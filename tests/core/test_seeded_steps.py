"""Agents that follow the server's steps by seeds have its parameters to the bit, and seeds are counted. Axis P: parameters."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from rl_agg.evolution import EvolutionAgents, EvolutionStrategy, PopulationEvaluator
from rl_agg.population import open_environments, reports
from rl_agg.population.server import OutOfStepError
from rl_agg.seeding import stream

POPULATION, SIZE = 10, 58
EVERYONE = np.arange(POPULATION + 1)
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "ranks and momentum": {"fitness": "ranks", "optimizer": "momentum", "antithetic": False},
    "a gate": {"communication": "deviation", "expected_messages": 4},
    "senders drawn": {"communication": "random", "expected_messages": 3, "l2_coeff": 0.1},
}


class Run:
    """A server, and workers with agents of their own."""

    def __init__(self, num_workers: int = 2, **settings: Any) -> None:
        self.evaluators = [PopulationEvaluator(open_environments("CartPole-v1", {}), hidden=[8]) for _ in range(num_workers)]
        self.settings = {"population": POPULATION, "noise_stdev": 0.1, "lr": 0.05, **settings}
        self.server = self.serve()
        self.workers = [EvolutionAgents(evaluator, self.server.settings) for evaluator in self.evaluators]

    def serve(self) -> EvolutionStrategy:
        return EvolutionStrategy(self.evaluators[0].network.initial(stream("start", 3)), run=3, **self.settings)

    def update(self, outlier: float | None = None) -> None:
        broadcast = self.server.broadcast()
        parts = []
        for worker, agents in zip(self.workers, np.array_split(EVERYONE, len(self.workers)), strict=True):
            try:
                parts.append(worker.run(broadcast, agents))
            except OutOfStepError:
                parts.append(worker.run(self.server.whole_broadcast(), agents))
        report = reports.merge_reports(parts)
        if outlier is not None:
            report.payload["fitness"][0] = outlier
        self.server.receive(report)


@pytest.mark.parametrize("name", SETTINGS)
def test_parameters_are_those_of_a_broadcast_of_parameters(name: str) -> None:
    one, other = Run(**SETTINGS[name]), Run(broadcast="seeds", **SETTINGS[name])
    down = 0
    for update in range(6):
        before, senders = other.server.ledger.bytes_down, other.server.ledger.messages
        one.update()
        other.update()
        np.testing.assert_array_equal(other.server.theta, one.server.theta)
        gate = 4 * len(other.server.exchange.gate.broadcast())
        expected = 4 * SIZE if update == 0 else 4 + down * (2 + 4)  # A and, of each sender, its number and what it counts for
        assert other.server.ledger.bytes_down - before == POPULATION * (expected + gate)
        down = other.server.ledger.messages - senders
    assert other.server.ledger.bytes == one.server.ledger.bytes
    assert one.server.ledger.bytes_down == 6 * POPULATION * (4 * SIZE + gate)
    if "gate" in name:
        assert other.server.ledger.bytes_down < one.server.ledger.bytes_down


def test_a_broadcast_of_seeds_has_no_parameters() -> None:
    run = Run(broadcast="seeds")
    assert run.server.broadcast().theta.size == SIZE
    run.update()
    assert run.server.broadcast().theta.size == 0
    assert run.server.whole_broadcast().theta.size == SIZE
    size = reports.buffer_bytes(run.server.broadcast())
    assert size < reports.buffer_bytes(run.server.whole_broadcast())


def test_a_worker_that_missed_an_update_needs_the_parameters() -> None:
    run = Run(broadcast="seeds")
    run.update()
    late = run.workers.pop()
    run.update()
    with pytest.raises(OutOfStepError):
        late.run(run.server.broadcast(), EVERYONE)
    run.workers.append(late)
    expected = Run()
    for _ in range(2):
        expected.update()
    for each in (run, expected):
        each.update()
    np.testing.assert_array_equal(run.server.theta, expected.server.theta)


def test_agents_without_a_report_are_sent_parameters_and_moments() -> None:
    run = Run(broadcast="seeds")
    run.update()
    (worker, _) = run.workers
    before = run.server.ledger.bytes_down
    some = np.array([0, 1, 2, 3, 6, 7, 8, 9, 10])
    run.server.receive(worker.run(run.server.broadcast(), some))
    follows = 4 + POPULATION * 6
    assert run.server.ledger.bytes_down - before == POPULATION * follows
    before = run.server.ledger.bytes_down
    run.update()
    whole = 4 * (3 * SIZE + 1)  # with Adam's two means, and the number of its steps
    assert run.server.ledger.bytes_down - before == 2 * whole + 8 * (4 + 8 * 6)


def test_parameters_that_were_written_are_sent() -> None:
    one, other = Run(), Run(broadcast="seeds")
    for run in (one, other):
        run.update()
        run.server.theta = run.server.theta + np.float32(0.5)
    assert other.server.broadcast().theta.size == SIZE
    for run in (one, other):
        run.update()
        run.update()
    np.testing.assert_array_equal(other.server.theta, one.server.theta)


def test_a_step_that_overflows_is_skipped_everywhere() -> None:
    one, other = Run(fitness="raw"), Run(broadcast="seeds", fitness="raw")
    for run in (one, other):
        run.update()
        before = run.server.theta.copy()
        run.update(outlier=1e19)
        np.testing.assert_array_equal(run.server.theta, before)
        for _ in range(2):
            run.update()
        assert run.server.num_skipped == 1
    assert other.server.broadcast().theta.size == 0  # the workers still follow
    np.testing.assert_array_equal(other.server.theta, one.server.theta)


def test_a_restored_server_continues_with_new_workers() -> None:
    """Workers of the run before are not taken for its own, and the ledger counts on."""
    whole = Run(broadcast="seeds")
    for _ in range(3):
        whole.update()
    state = copy.deepcopy(whole.server.state_dict())
    resumed = Run(broadcast="seeds")
    resumed.server.load_state_dict(state)
    whole.server.theta[:] = 9  # its own
    behind = whole.workers[0]
    with pytest.raises(OutOfStepError):
        behind.run(resumed.server.broadcast(), EVERYONE)
    expected = Run(broadcast="seeds")
    for _ in range(5):
        expected.update()
    for _ in range(2):
        resumed.update()
    np.testing.assert_array_equal(resumed.server.theta, expected.server.theta)
    assert resumed.server.ledger.state_dict() == expected.server.ledger.state_dict()


def test_unknown_broadcasts_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"unknown broadcast 'seed' \(did you mean 'seeds'\?\); choose from parameters, seeds"
    ):
        EvolutionStrategy(np.zeros(3), broadcast="seed")
