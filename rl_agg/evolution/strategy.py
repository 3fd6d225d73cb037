r"""The server of an evolution strategy. Axes: A agents, P parameters, S agents that sent a message.

.. math:: \hat g = \frac{1}{A \sigma} \sum_{i \in S} f_i \, \epsilon_i, \qquad
    \theta \leftarrow \theta + \mathrm{Adam}(\hat g - \lambda \theta)

with noise :math:`\epsilon_i` that the server draws again from (run, update, i), and the weight :math:`f_i` of the return.

Source: Salimans et al. (2017), algorithm 2; Gunn (2023), equation 2.1.
"""

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rl_agg.evolution.normalization import ObservationStatistics
from rl_agg.evolution.perturbations import Perturbations, norms
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.evolution.workers import EvolutionBroadcast, decide
from rl_agg.gates import ScoreGate
from rl_agg.population.reports import AGENT_ID, Report
from rl_agg.population.server import PopulationServer
from rl_agg.signals import Signals
from rl_agg.validation import build


class EvolutionStrategy(PopulationServer):
    """Maximises: :meth:`ask` for parameters to try, :meth:`tell` what they returned. Or, where agents run elsewhere, send them
    :meth:`broadcast` and :meth:`receive` their reports.

    :param theta: Initial parameters ``[P]``.
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
        start: NDArray[np.float32] = np.array(theta, dtype=np.float32)
        if start.ndim != 1 or not start.size or not np.isfinite(start).all():
            raise ValueError(f"theta must be a vector of finite numbers, got shape {start.shape}")
        if settings is not None and changes:
            raise ValueError(f"settings are given as one, so leave out {', '.join(changes)}")
        self.settings = settings or build("EvolutionStrategy", EvolutionSettings, changes)
        super().__init__(start, self.settings.make_exchange(), run)
        self._asked: int | None = None  # in which update
        self.statistics = None if observation_size is None else ObservationStatistics(observation_size)
        self._optimizer = self.settings.make_optimizer(self.theta.size)

    @property
    def _gate(self) -> ScoreGate:
        gate = self.exchange.gate
        assert isinstance(gate, ScoreGate)
        return gate

    @property
    def memory(self) -> NDArray[np.float64]:
        """What agents remember for the gate ``[A, K]``."""
        return self._gate.memory

    def broadcast(self) -> EvolutionBroadcast:
        """What to send to the agents for this update."""
        scale = None if self.statistics is None else (self.statistics.mean, self.statistics.deviation)
        return EvolutionBroadcast(
            self.run, self.num_updates, self.theta.copy(), self.memory.copy(), self._gate.broadcast(), scale
        )

    def ask(self) -> NDArray[np.float32]:
        """Parameters for each agent to try in this update ``[A, P]``."""
        self._asked = self.num_updates
        noise = self._perturbations().draw(self.num_updates, np.arange(self.settings.population))
        return self.theta + np.float32(self.settings.noise_stdev) * noise

    def tell(self, returns: ArrayLike) -> None:
        """Learn from the returns of the parameters of :meth:`ask`, as far as the gate lets agents send them.

        :param returns: ``[A]``, larger is better; those that are not finite are masked.
        :raises ValueError: if there are not A of them, or observations are normalised: returns do not bring their statistics.
        :raises RuntimeError: before :meth:`ask`, or a second time for the same parameters.
        """
        if self.statistics is not None:
            raise ValueError(
                "returns do not bring the statistics that observation_size asks for; use broadcast() and receive()"
            )
        if self._asked != self.num_updates:
            raise RuntimeError("tell() learns from the parameters of ask(); call ask() before each tell()")
        agents = np.arange(self.settings.population)
        sent = np.asarray(returns, dtype=np.float64).astype(np.float32)
        if sent.shape != agents.shape:
            raise ValueError(f"returns must be [A] = [{len(agents)}], got shape {sent.shape}")
        fitness = sent.astype(np.float64)
        noise = self._perturbations().draw(self.num_updates, agents)
        sends, memory = decide(self._gate, self.broadcast(), agents, fitness, noise)
        senders = np.flatnonzero(sends)
        lengths = np.zeros(len(agents), dtype=np.int64)
        payload = {"fitness": sent[senders]}
        self.receive(Report(agents, fitness, fitness, lengths, memory, senders.astype(AGENT_ID), payload))

    def learn(self, report: Report, present: NDArray[np.bool_]) -> None:
        """Take one step with the messages of an update.

        The rule reads the returns, sent and imputed, and as losses their negatives. What a rule over losses alone weighs is
        descended, so its weights are negated.
        """
        fitness = np.full(self.num_agents, np.nan)
        fitness[report.senders] = report.payload["fitness"]
        senders = np.flatnonzero(~np.isnan(fitness))
        perturbations = self._perturbations()
        lengths = np.full(len(fitness), np.nan)
        if self._gate.wants_norms:
            for part, noise in perturbations.parts(self.num_updates, senders):
                lengths[senders[part]] = norms(noise)
        values = self._gate.receive(fitness, lengths, present)
        shares = self._weigh(values)
        gradient = np.zeros_like(self.theta)
        for part, noise in perturbations.parts(self.num_updates, senders):
            gradient += shares[senders[part]].astype(np.float32) @ noise
        gradient /= np.float32(present.sum() * self.settings.noise_stdev)
        self.measures["gradient_norm"] = float(np.linalg.norm(gradient))
        step = self._optimizer.step(gradient - np.float32(self.settings.l2_coeff) * self.theta)
        self.measures["step_norm"] = float(np.linalg.norm(step))
        self.theta = self.theta + step
        if self.statistics is not None:
            self.statistics.add(self.statistics.mean, report.payload["statistics"])

    def _weigh(self, returns: NDArray[np.float64]) -> NDArray[np.float64]:
        """How much each agent's noise counts ``[A]``, for returns ``[A]`` that are NaN where nothing is known."""
        values = torch.from_numpy(returns)
        weights = self.exchange.weigh(Signals(returns=values, losses=-values, present=~values.isnan())).numpy()
        return -weights if self.exchange.scheme.needs == {"losses"} else weights

    def message_content(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """A return, the sender's number and, if observations are normalised, their statistics."""
        return {"scalars": 1 if self.statistics is None else 2 + 2 * len(self.statistics.mean), "ids": 1}

    def broadcast_content(self) -> dict[str, Any]:
        """Parameters, the gate's numbers and, if observations are normalised, their mean and deviation."""
        scale = 0 if self.statistics is None else 2 * len(self.statistics.mean)
        return {"parameters": self.theta.size, "scalars": len(self._gate.broadcast()) + scale}

    def _perturbations(self) -> Perturbations:
        return Perturbations(self.run, self.theta.size, antithetic=self.settings.antithetic)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that later updates depend on, parameters included."""
        own = {
            "optimizer": self._optimizer.state_dict(),
            "optimizer_name": self.settings.optimizer,
            "statistics": None if self.statistics is None else self.statistics.state_dict(),
        }
        return {**super().state_dict(), **copy.deepcopy(own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`, to the bit; another gate or optimizer than was saved starts afresh."""
        super().load_state_dict(state)
        self._optimizer = self.settings.make_optimizer(self.theta.size)
        if state["optimizer_name"] == self.settings.optimizer:
            self._optimizer.load_state_dict(state["optimizer"])
        if self.statistics is not None and state["statistics"] is not None:
            self.statistics.load_state_dict(state["statistics"])
