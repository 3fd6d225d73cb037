"""The server of an evolution strategy, which finds out what each return counts for. Axes: A agents, P parameters.

It takes the steps of :mod:`rl_agg.evolution.steps` and sends agents the parameters, or what they need to take the same steps.
In the weight of a return novelty may count (:mod:`rl_agg.evolution.novelty`). Samples of earlier updates may be used again
(:mod:`rl_agg.evolution.reuse`).

Source: Salimans et al. (2017), algorithm 2; Gunn (2023), equation 2.1.
"""

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rl_agg.evolution.normalization import ObservationStatistics
from rl_agg.evolution.novelty import NoveltySearch
from rl_agg.evolution.perturbations import Perturbations, norms
from rl_agg.evolution.reuse import Samples
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.evolution.steps import Step, estimate, move
from rl_agg.evolution.workers import EvolutionBroadcast, decide
from rl_agg.gates import ScoreGate
from rl_agg.gates.scores import Floats
from rl_agg.population.reports import AGENT_ID, Report
from rl_agg.population.server import PopulationServer
from rl_agg.seeding import fresh_run
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
        self.settings.check_normalization(observation_size is not None)
        super().__init__(start, self.settings.make_exchange(), run)
        self._asked: int | None = None  # in which update
        self.statistics = None if observation_size is None else ObservationStatistics(observation_size)
        self._optimizer = self.settings.make_optimizer(self.theta.size)
        self._step: Step | None = None  # of the last update
        self._stepped_to = self.theta  # what agents that follow the steps hold
        self._hold: NDArray[np.bool_] = np.zeros(self.num_agents, dtype=np.bool_)  # which agents do [A]
        self._line = fresh_run()  # workers of another have followed other steps
        self.novelty = self.settings.make_novelty()
        """Archive and weight, if novelty is searched for."""
        self._reuse = self.settings.make_reuse()

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
        if not np.array_equal(self.theta, self._stepped_to):  # they were written by something else
            self._hold[:] = False
        return self._compose(whole=self.settings.broadcast == "parameters" or not self._hold.any())

    def whole_broadcast(self) -> EvolutionBroadcast:
        """The same with the parameters, for workers that do not have them."""
        return self._compose(whole=True)

    def _compose(self, *, whole: bool) -> EvolutionBroadcast:
        follows = self.settings.broadcast == "seeds"
        return EvolutionBroadcast(
            self.run,
            self.num_updates,
            self.theta.copy() if whole else self.theta[:0],
            self.memory.copy(),
            self._gate.broadcast(),
            None if self.statistics is None else (self.statistics.mean, self.statistics.deviation),
            expected_messages=self._gate.expected_messages if self.exchange.followed else None,
            line=self._line if follows else None,
            step=None if whole else self._step,
            optimizer=copy.deepcopy(self._optimizer.state_dict()) if whole and follows else None,
        )

    def ask(self) -> NDArray[np.float32]:
        """Parameters for each agent to try in this update ``[A, P]``."""
        self._asked = self.num_updates
        noise = self._perturbations().draw(self.num_updates, np.arange(self.settings.population))
        return self.theta + np.float32(self.settings.noise_stdev) * noise

    def tell(self, returns: ArrayLike) -> None:
        """Learn from the returns of the parameters of :meth:`ask`, as far as the gate lets agents send them.

        :param returns: ``[A]``, larger is better; those that are not finite are masked.
        :raises ValueError: if there are not A of them, observations are normalised, or novelty is searched for: returns bring
            neither statistics nor behaviours.
        :raises RuntimeError: before :meth:`ask`, or a second time for the same parameters.
        """
        if self.novelty is not None:
            raise ValueError("returns do not bring the behaviours that novelty asks for; use broadcast() and receive()")
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

    @np.errstate(over="ignore", invalid="ignore")  # a step that overflows is skipped
    def learn(self, report: Report, present: NDArray[np.bool_]) -> None:
        """Take one step with the messages of an update; one whose norm is not finite is skipped, and counted.

        The rule reads the returns, sent and imputed, and as losses their negatives. What a rule over losses alone weighs is
        descended, so its weights are negated.
        """
        fitness = np.full(self.num_agents, np.nan)
        fitness[report.senders] = report.payload["fitness"]
        senders = np.flatnonzero(~np.isnan(fitness))
        lengths = np.full(len(fitness), np.nan)
        if self._gate.wants_norms:
            for part, noise in self._perturbations().parts(self.num_updates, senders):
                lengths[senders[part]] = norms(noise)
        values = self._gate.receive(fitness, lengths, present)
        perturbations = self._perturbations()
        earlier = [] if self._reuse is None else list(self._reuse.usable(self.theta, perturbations))
        shares, *earlier_shares = self._weigh(report, [values, *(each.samples.returns for each in earlier)])
        self._step = Step.of(self.num_updates, senders, shares[senders], int(present.sum()))
        gradient = estimate(self._step, self.theta.size, self.settings, self.run)
        if self._reuse is not None:
            gradient = self._reuse.average(gradient, int(present.sum()), earlier, earlier_shares, perturbations)
            self.measures["reused_updates"] = float(len(earlier))
            self.measures["effective_samples"] = float(present.sum() + sum(each.number for each in earlier))
        taken = move(gradient, self.theta, self._optimizer, self.settings)
        self.measures |= {"gradient_norm": taken.gradient_norm, "step_norm": taken.step_norm}
        if taken.theta is self.theta:
            self.num_skipped += 1
        elif self._reuse is not None:
            self._reuse.add(Samples(self.num_updates, self.theta, values, ~np.isnan(fitness), present))
        self.theta = taken.theta
        if self.statistics is not None:
            self.statistics.add(self.statistics.mean, report.payload["statistics"])

    def _weigh(self, report: Report, returns: list[Floats]) -> list[Floats]:
        """How much each agent's noise counts ``[A]``, in this update and in those whose samples are used again.

        :param returns: Of these updates ``[A]`` each, NaN where nothing is known; the rule sees them together.
        """
        if self.novelty is None:
            return np.split(self._apply_rule(np.concatenate(returns)), np.cumsum([len(each) for each in returns])[:-1])
        novelties = self._novelties(report, self.novelty)
        weight = self.novelty.weight
        weights = (1 - weight) * self._apply_rule(novelties)
        return [weight * self._apply_rule(returns[0]) + weights if weight else weights]

    def _apply_rule(self, returns: Floats) -> Floats:
        values = torch.from_numpy(returns)
        weights: Floats = self.exchange.weigh(Signals(returns=values, losses=-values, present=~values.isnan())).numpy()
        return -weights if self.exchange.scheme.needs == {"losses"} else weights

    def _novelties(self, report: Report, novelty: NoveltySearch) -> Floats:
        """Of the agents' behaviours ``[A]``, NaN where nothing was sent, after the server's own has joined the archive."""
        behaviours = report.behaviours
        assert behaviours is not None
        own = np.flatnonzero((report.agents == self.num_agents) & report.present)
        for row in own:  # at most one
            novelty.note(behaviours[row], float(report.discounted[row]))
        found = np.full(self.num_agents, np.nan)
        found[report.senders] = novelty.novelties(behaviours[np.searchsorted(report.agents, report.senders)])
        self.measures |= novelty.measures
        return found

    def message_content(self, rows: NDArray[np.int64]) -> dict[str, Any]:
        """A return and the sender's number; if observations are normalised, their statistics; if novelty is searched for, what
        characterises the episode, without the return if that has no effect."""
        scalars = 1 if self.statistics is None else 2 + 2 * len(self.statistics.mean)
        if self.novelty is not None:
            scalars += self.novelty.size - (not self.novelty.reads_returns)
        return {"scalars": scalars, "ids": 1}

    def receive(self, report: Report) -> None:
        """Learn from the messages of an update, and count them; agents without a report will need the parameters again."""
        before = self.num_skipped
        super().receive(report)
        if self.num_skipped > before:
            self._step = None
        self._stepped_to = self.theta
        self._hold[:] = False
        self._hold[report.agents[report.agents < self.num_agents]] = self.settings.broadcast == "seeds"
        self.measures |= self.exchange.followed

    def broadcast_content(self) -> dict[str, Any]:
        """Parameters, or the last step: numbers and shares of senders, and A; the gate's numbers and, if observations are
        normalised, their mean and deviation. Agents begin to follow steps with parameters and the optimizer's moments."""
        scale = 0 if self.statistics is None else 2 * len(self.statistics.mean)
        scalars = len(self._gate.broadcast()) + scale + len(self.exchange.followed)
        if self.settings.broadcast == "parameters":
            return {"parameters": self.theta.size, "scalars": scalars}
        num_senders, counts = (0, 0) if self._step is None else (len(self._step.senders), 1)
        moments = sum(np.size(value) for value in self._optimizer.state_dict().values()) if self.num_updates else 0
        return {
            "parameters": np.where(self._hold, 0, self.theta.size + moments),
            "scalars": scalars + np.where(self._hold, num_senders + counts, 0),
            "ids": np.where(self._hold, num_senders, 0),
        }

    def _perturbations(self) -> Perturbations:
        return Perturbations(self.run, self.theta.size, antithetic=self.settings.antithetic)

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that later updates depend on, parameters included."""
        own = {
            "optimizer": self._optimizer.state_dict(),
            "optimizer_name": self.settings.optimizer,
            "statistics": None if self.statistics is None else self.statistics.state_dict(),
            "step": None if self._step is None else dataclasses.asdict(self._step),
            "hold": self._hold.copy(),
            "novelty": None if self.novelty is None else self.novelty.state_dict(),
            "reuse": None if self._reuse is None else self._reuse.state_dict(),
        }
        return {**super().state_dict(), **copy.deepcopy(own)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`, to the bit; another gate or optimizer than was saved starts afresh."""
        super().load_state_dict(state)
        self._asked = None  # with the parameters from before
        self._optimizer = self.settings.make_optimizer(self.theta.size)
        if state["optimizer_name"] == self.settings.optimizer:
            self._optimizer.load_state_dict(state["optimizer"])
        self.novelty, self._reuse = self.settings.make_novelty(), self.settings.make_reuse()
        parts = {"statistics": self.statistics, "novelty": self.novelty, "reuse": self._reuse}
        for name, part in parts.items():
            if part is not None and state.get(name) is not None:
                part.load_state_dict(state[name])
        self._step = None if state["step"] is None else Step(**state["step"])
        self._stepped_to, self._line = self.theta, fresh_run()
        if state["hold"].shape == self._hold.shape:
            self._hold = state["hold"].copy()
