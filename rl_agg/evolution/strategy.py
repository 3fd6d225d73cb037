r"""The centre of an evolution strategy. Axes: A agents, P parameters, S agents that spoke.

.. math:: \hat g = \frac{1}{A \sigma} \sum_{i \in S} f_i \, \epsilon_i, \qquad
    \theta \leftarrow \theta + \mathrm{Adam}(\hat g - \lambda \theta)

with noise :math:`\epsilon_i` that the centre draws again from (run, update, i), and the share :math:`f_i` of agent i's return.

Source: Salimans et al. (2017), algorithm 2; Gunn (2023), equation 2.1.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rl_agg.evolution.fitness import FITNESS
from rl_agg.evolution.normalization import ObservationStatistics
from rl_agg.evolution.perturbations import Perturbations, norms
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.evolution.workers import Order, decide
from rl_agg.ledger import Ledger
from rl_agg.population.reports import AGENT_ID, Report, measures
from rl_agg.seeding import fresh_run
from rl_agg.validation import build


class EvolutionStrategy:
    """Maximises: :meth:`ask` for parameters to try, :meth:`tell` what they returned. Or, where agents run elsewhere, send them
    :meth:`order` and :meth:`receive` their reports.

    :param theta: Parameters to begin with ``[P]``.
    :param run: What all random numbers come from; ``None``: a fresh one.
    :param observation_size: D, to normalise observations; ``None``: they stay as they are.
    :param settings: Those of :class:`~rl_agg.evolution.settings.EvolutionSettings`, as one, or as keyword arguments.
    :raises ValueError: as :class:`~rl_agg.evolution.settings.EvolutionSettings`, if they are given both ways, or if
        ``theta`` is not a finite vector.
    """

    def __init__(
        self,
        theta: ArrayLike,
        *,
        run: int | None = None,
        observation_size: int | None = None,
        settings: EvolutionSettings | None = None,
        **changes: Any,
    ) -> None:
        self.theta: NDArray[np.float32] = np.array(theta, dtype=np.float32)
        if self.theta.ndim != 1 or not self.theta.size or not np.isfinite(self.theta).all():
            raise ValueError(f"theta must be a vector of finite numbers, got shape {self.theta.shape}")
        if settings is not None and changes:
            raise ValueError(f"settings are given as one, so leave out {', '.join(changes)}")
        self.settings = settings or build("EvolutionStrategy", EvolutionSettings, changes)
        self.run = fresh_run() if run is None else run
        self.num_updates = 0
        self.num_skipped = 0
        """Updates without a single sound episode: nothing was learned."""
        self.num_masked = 0
        """Episodes whose return was not finite, or that were lost with their runner."""
        self.ledger = Ledger(self.settings.population)
        self.measures: dict[str, float] = {}
        """Of the last update, by name."""
        self.statistics = None if observation_size is None else ObservationStatistics(observation_size)
        self._gate = self.settings.make_gate()
        self._optimizer = self.settings.make_optimizer(self.theta.size)

    def order(self) -> Order:
        """What to send to the agents for this update."""
        scale = None if self.statistics is None else (self.statistics.mean, self.statistics.deviation)
        return Order(self.run, self.num_updates, self.theta.copy(), self._gate.told(), self._gate.memory.copy(), scale)

    def ask(self) -> NDArray[np.float32]:
        """Parameters for each agent to try in this update ``[A, P]``."""
        noise = self._perturbations().draw(self.num_updates, np.arange(self.settings.population))
        return self.theta + np.float32(self.settings.noise_stdev) * noise

    def tell(self, returns: ArrayLike) -> None:
        """Learn from what the parameters of :meth:`ask` returned, as far as the gate lets agents speak.

        :param returns: ``[A]``, larger is better; those that are not finite are masked.
        :raises ValueError: if there are not A of them, or observations are normalised: returns do not bring their statistics.
        """
        if self.statistics is not None:
            raise ValueError("returns do not bring the statistics that observation_size asks for; use order() and receive()")
        agents = np.arange(self.settings.population)
        sent = np.asarray(returns, dtype=np.float64).astype(np.float32)
        if sent.shape != agents.shape:
            raise ValueError(f"returns must be [A] = [{len(agents)}], got shape {sent.shape}")
        fitness = sent.astype(np.float64)
        noise = self._perturbations().draw(self.num_updates, agents)
        spoken = decide(self._gate, self.order(), agents, fitness, noise)
        senders = np.flatnonzero(spoken.speaks)
        lengths = np.zeros(len(agents), dtype=np.int64)
        payload = {"fitness": sent[senders]}
        self.receive(Report(agents, fitness, fitness, lengths, spoken.memory, senders.astype(AGENT_ID), payload))

    def receive(self, report: Report) -> None:
        """Take one step with the messages of an update.

        :param report: All agents' together; agents that are missing are masked. The centre's, if there, is not looked at.
        """
        size = self.settings.population
        perturbed = report.agents < size
        present = np.zeros(size, dtype=np.bool_)
        present[report.agents[perturbed]] = report.present[perturbed]
        self._gate.memory[report.agents[perturbed]] = report.memory[perturbed]
        fitness = np.full(size, np.nan)
        fitness[report.senders] = report.payload["fitness"]
        self.num_masked += int((~present).sum())
        if present.any():
            self._step(fitness, present)
        else:
            self.num_skipped += 1
        if self.statistics is not None:
            self.statistics.add(self.statistics.mean, report.payload["statistics"])
        self._count(report, ~np.isnan(fitness), report.discounted[perturbed & report.present])
        self.num_updates += 1

    def _step(self, fitness: NDArray[np.float64], present: NDArray[np.bool_]) -> None:
        spoken = ~np.isnan(fitness)
        speakers = np.flatnonzero(spoken)
        perturbations = self._perturbations()
        lengths = np.full(len(fitness), np.nan)
        if self._gate.wants_norms:
            for part, noise in perturbations.parts(self.num_updates, speakers):
                lengths[speakers[part]] = norms(noise)
        values = self._gate.receive(fitness, lengths, present)
        known = ~np.isnan(values)
        shares = np.zeros(len(fitness))
        if spoken.any():
            shares[known] = FITNESS[self.settings.fitness](values[known])
        gradient = np.zeros_like(self.theta)
        for part, noise in perturbations.parts(self.num_updates, speakers):
            gradient += shares[speakers[part]].astype(np.float32) @ noise
        gradient /= np.float32(present.sum() * self.settings.noise_stdev)
        self.measures["gradient_norm"] = float(np.linalg.norm(gradient))
        step = self._optimizer.step(gradient - np.float32(self.settings.l2_coeff) * self.theta)
        self.measures["step_norm"] = float(np.linalg.norm(step))
        self.theta = self.theta + step

    def _count(self, report: Report, spoken: NDArray[np.bool_], rewards: NDArray[np.float64]) -> None:
        normalizes = self.statistics is not None
        size = report.payload["statistics"].shape[1] if normalizes else 0
        before = self.ledger.bytes_per_agent
        self.ledger.upload(spoken, scalars=1 + size, ids=1)
        told = len(self._gate.told()) + (size - 1 if normalizes else 0)
        self.ledger.download(np.ones_like(spoken), parameters=self.theta.size, scalars=told)
        self.measures |= measures(rewards, spoken, self.ledger.bytes_per_agent - before)

    def _perturbations(self) -> Perturbations:
        return Perturbations(self.run, self.theta.size, antithetic=self.settings.antithetic)

    def state_dict(self) -> dict[str, Any]:
        """All that decides how it goes on, parameters included."""
        state = {
            "theta": self.theta,
            "run": self.run,
            "num_updates": self.num_updates,
            "num_skipped": self.num_skipped,
            "num_masked": self.num_masked,
            "ledger": self.ledger.state_dict(),
            "gate": self._gate.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "optimizer_name": self.settings.optimizer,
            "statistics": None if self.statistics is None else self.statistics.state_dict(),
        }
        return copy.deepcopy(state)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state_dict`, to the bit; another gate or optimizer than was saved begins afresh."""
        self.theta = np.array(state["theta"], dtype=np.float32)
        self.run = state["run"]
        self.num_updates, self.num_skipped, self.num_masked = (
            state[name] for name in ("num_updates", "num_skipped", "num_masked")
        )
        self.ledger.load_state_dict(state["ledger"])
        self._gate, self._optimizer = self.settings.make_gate(), self.settings.make_optimizer(self.theta.size)
        self._gate.load_state_dict(state["gate"])
        saved_name = state.get("optimizer_name", self.settings.optimizer)  # unsaved until 0.1
        if saved_name == self.settings.optimizer and state["optimizer"].keys() == self._optimizer.state_dict().keys():
            self._optimizer.load_state_dict(state["optimizer"])
        if self.statistics is not None and state["statistics"] is not None:
            self.statistics.load_state_dict(state["statistics"])
