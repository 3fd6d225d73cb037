r"""The agents of an evolution strategy, wherever they run. Axes: A agents, k of them here, P parameters."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rl_agg.evolution.evaluation import Outcomes, PopulationEvaluator
from rl_agg.evolution.perturbations import Perturbations, norms
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.gates.score_gate import Drawn, FitnessGate, Floats
from rl_agg.population.reports import AGENT_ID, Report
from rl_agg.seeding import chances, episode_seeds, stream


@dataclass(frozen=True, slots=True)
class Order:
    """What the centre broadcasts for an update.

    :param run: See :mod:`rl_agg.seeding`.
    :param update: Counted from 0.
    :param theta: Parameters ``[P]``.
    :param told: What the gate broadcasts.
    :param memory: What agents remember ``[A, K]``, carried to wherever they run.
    :param scale: Mean and standard deviation of observations ``[D]``, if they are normalised.
    """

    run: int
    update: int
    theta: NDArray[np.float32]
    told: Floats
    memory: Floats
    scale: tuple[NDArray[np.float32], NDArray[np.float32]] | None


@dataclass(frozen=True, slots=True)
class Trial:
    """What agents are about to try.

    :param order: The centre's.
    :param agents: Who ``[k]``; the centre, if there, is the last.
    :param noise: Of all but the centre.
    :param parameters: ``[k, P]``.
    :param seeds: Of their environments ``[k]``.
    :param samplers: Of their actions ``[k]``; ``None``: the best actions.
    """

    order: Order
    agents: NDArray[np.int64]
    noise: NDArray[np.float32]
    parameters: NDArray[np.float32]
    seeds: NDArray[np.int64]
    samplers: list[np.random.Generator] | None


@dataclass(frozen=True, slots=True)
class Spoken:
    """What agents have to say: who speaks ``[k]``, and what all of them remember from now on ``[k, K]``."""

    speaks: NDArray[np.bool_]
    memory: Floats


def decide(gate: FitnessGate, order: Order, agents: NDArray[np.int64], fitness: Floats, noise: NDArray[np.float32]) -> Spoken:
    """Let agents decide whether to speak; those whose return is not finite do not, and forget nothing.

    :param agents: Who ``[k]``.
    :param fitness: Their returns ``[k]``.
    :param noise: What they tried out ``[k, P]``.
    """
    sound = np.isfinite(fitness)
    speaks, memory = sound.copy(), order.memory[agents]
    drawn = Drawn(fitness[sound], norms(noise[sound]), chances(order.run, order.update, gate.num_agents)[agents[sound]])
    speaks[sound], memory[sound] = gate.decide(drawn, memory[sound], order.told)
    return Spoken(speaks, memory)


class EvolutionAgents:
    """Evaluates any of the agents, and the unperturbed centre, whose number is A.

    :param evaluator: Runs the episodes.
    :param settings: As the centre's.
    :param explore: Whether actions are sampled.
    """

    def __init__(self, evaluator: PopulationEvaluator, settings: EvolutionSettings, *, explore: bool = False) -> None:
        self.evaluator = evaluator
        self.settings = settings
        self.explore = explore
        self._gate = settings.make_gate()

    def close(self) -> None:
        """Close the environments."""
        self.evaluator.environments.close()

    def run(self, order: Order, agents: NDArray[np.int64]) -> Report:
        """Run an episode with each.

        :param agents: Which, in [0, A], ascending ``[k]``.
        """
        trial = self.prepare(order, agents)
        outcomes = self.evaluator(trial.parameters, trial.seeds, samplers=trial.samplers, scale=order.scale)
        return self.report(trial, outcomes)

    def prepare(self, order: Order, agents: NDArray[np.int64]) -> Trial:
        """Perturb the parameters, and seed the episodes; whoever runs them then hands the outcomes to :meth:`report`."""
        perturbed = agents[agents < self.settings.population]
        noise = Perturbations(order.run, len(order.theta), antithetic=self.settings.antithetic).draw(order.update, perturbed)
        parameters = np.empty((len(agents), len(order.theta)), dtype=np.float32)
        np.multiply(noise, np.float32(self.settings.noise_stdev), out=parameters[: len(perturbed)])
        parameters[: len(perturbed)] += order.theta
        parameters[len(perturbed) :] = order.theta
        samplers = [stream("actions", order.run, order.update, agent) for agent in agents.tolist()] if self.explore else None
        seeds = episode_seeds(order.run, order.update, self.settings.population + 1)[agents]
        return Trial(order, agents, noise, parameters, seeds, samplers)

    def report(self, trial: Trial, outcomes: Outcomes) -> Report:
        """Let those whose episodes are over decide whether to speak."""
        order, perturbed = trial.order, trial.agents[: len(trial.noise)]
        sent = outcomes.discounted.astype(np.float32)
        fitness = sent.astype(np.float64)
        spoken = decide(self._gate, order, perturbed, fitness[: len(perturbed)], trial.noise)
        rows = np.flatnonzero(spoken.speaks)
        payload = {"fitness": sent[rows]}
        if order.scale is not None:
            payload["statistics"] = outcomes.statistics[rows]
        memory = np.full((len(trial.agents), order.memory.shape[1]), np.nan)
        memory[: len(perturbed)] = spoken.memory
        return Report(
            agents=trial.agents,
            returns=outcomes.returns,
            discounted=fitness,
            lengths=outcomes.lengths,
            memory=memory,
            senders=perturbed[rows].astype(AGENT_ID),
            payload=payload,
        )
