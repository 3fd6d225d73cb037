r"""The agents of an evolution strategy, wherever they run. Axes: A agents, k of them here, P parameters."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rl_agg.evolution.behaviours import Recorder, make_recorder
from rl_agg.evolution.evaluation import Outcomes, PopulationEvaluator
from rl_agg.evolution.perturbations import Perturbations, norms
from rl_agg.evolution.settings import EvolutionSettings
from rl_agg.evolution.steps import Follower, Step
from rl_agg.gates.scores import Bools, Drawn, Floats, ScoreGate
from rl_agg.population.reports import AGENT_ID, Report
from rl_agg.population.server import Broadcast
from rl_agg.seeding import chances, episode_seeds, stream


@dataclass(frozen=True, slots=True)
class EvolutionBroadcast(Broadcast):
    """What the server sends for an update.

    With ``broadcast="seeds"``, agents hold the parameters, and ``theta`` is empty unless they are to begin.

    :param gate: What the gate broadcasts.
    :param scale: Mean and standard deviation of observations ``[D]``, if they are normalised.
    :param expected_messages: m, where a budget of bytes moves it.
    :param line: Names the server's sequence of steps, where agents follow it.
    :param step: That led to this update; ``None``: none.
    :param optimizer: The optimizer's state, where agents are to begin.
    """

    gate: Floats
    scale: tuple[NDArray[np.float32], NDArray[np.float32]] | None
    expected_messages: float | None = None
    line: int | None = None
    step: Step | None = None
    optimizer: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """Perturbed parameters, before their episodes.

    :param broadcast: The server's.
    :param agents: Numbers of the agents, ascending ``[k]``; the server's, A, is the last.
    :param noise: Of all but the server ``[k or k - 1, P]``.
    :param parameters: ``[k, P]``.
    :param seeds: Of their environments ``[k]``.
    :param samplers: Of their actions ``[k]``; ``None``: the best actions.
    """

    broadcast: EvolutionBroadcast
    agents: NDArray[np.int64]
    noise: NDArray[np.float32]
    parameters: NDArray[np.float32]
    seeds: NDArray[np.int64]
    samplers: list[np.random.Generator] | None


def decide(
    gate: ScoreGate, broadcast: EvolutionBroadcast, agents: NDArray[np.int64], fitness: Floats, noise: NDArray[np.float32]
) -> tuple[Bools, Floats]:
    """Let agents decide whether to send; those whose return is not finite do not, and keep their memory.

    :param gate: The agents'.
    :param broadcast: The server's.
    :param agents: Numbers of the agents ``[k]``.
    :param fitness: Their returns ``[k]``.
    :param noise: Their perturbations ``[k, P]``.
    :return: Who sends ``[k]``, and what each agent remembers from now on ``[k, K]``.
    """
    if broadcast.expected_messages is not None:
        gate.expected_messages = broadcast.expected_messages
    finite = np.isfinite(fitness)
    sends, memory = finite.copy(), broadcast.memory[agents]
    own_chances = chances(broadcast.run, broadcast.update, gate.num_agents)[agents]
    drawn = Drawn(fitness[finite], norms(noise[finite]), own_chances[finite])
    sends[finite], memory[finite] = gate.decide_scores(drawn, memory[finite], broadcast.gate)
    return sends, memory


class EvolutionAgents:
    """Evaluates any of the agents, and the unperturbed server, whose number is A.

    :param evaluator: Runs the episodes.
    :param settings: As the server's.
    :param explore: Whether actions are sampled.
    """

    def __init__(self, evaluator: PopulationEvaluator, settings: EvolutionSettings, *, explore: bool = False) -> None:
        self.evaluator = evaluator
        self.settings = settings
        self.explore = explore
        self._gate = settings.make_gate()
        self._follower = Follower(settings)
        novelty, encoder = settings.make_novelty(), evaluator.encoder
        self.record: Callable[[int], Recorder] | None = None
        """Makes what records the behaviour of some episodes, if novelty is searched for."""
        if novelty is not None:
            self.record = partial(make_recorder, novelty.behaviour, size=encoder.size, is_discrete=encoder.is_discrete)

    def close(self) -> None:
        """Close the environments."""
        self.evaluator.environments.close()

    def run(self, broadcast: EvolutionBroadcast, agents: NDArray[np.int64]) -> Report:
        """Run an episode with each.

        :param agents: Which, in [0, A], ascending ``[k]``.
        :raises OutOfStepError: if the parameters here cannot follow the server's step.
        """
        trial = self.prepare(broadcast, agents)
        outcomes = self.evaluator(
            trial.parameters, trial.seeds, samplers=trial.samplers, scale=broadcast.scale, record=self.record
        )
        return self.report(trial, outcomes)

    def prepare(self, broadcast: EvolutionBroadcast, agents: NDArray[np.int64]) -> Trial:
        """Perturb the parameters, and seed the episodes, whose outcomes :meth:`report` takes."""
        perturbed, theta = agents[agents < self.settings.population], self._parameters(broadcast)
        noise = Perturbations(broadcast.run, len(theta), antithetic=self.settings.antithetic).draw(broadcast.update, perturbed)
        parameters = np.empty((len(agents), len(theta)), dtype=np.float32)
        np.multiply(noise, np.float32(self.settings.noise_stdev), out=parameters[: len(perturbed)])
        parameters[: len(perturbed)] += theta
        parameters[len(perturbed) :] = theta
        samplers = (
            [stream("actions", broadcast.run, broadcast.update, agent) for agent in agents.tolist()] if self.explore else None
        )
        seeds = episode_seeds(broadcast.run, broadcast.update, self.settings.population + 1)[agents]
        return Trial(broadcast, agents, noise, parameters, seeds, samplers)

    def _parameters(self, broadcast: EvolutionBroadcast) -> NDArray[np.float32]:
        """The server's ``[P]``."""
        if broadcast.line is None:
            return broadcast.theta
        if broadcast.optimizer is not None:
            self._follower.begin(broadcast.line, broadcast.update, broadcast.theta, broadcast.optimizer)
        return self._follower.follow(broadcast.line, broadcast.update, broadcast.step, broadcast.run)

    def report(self, trial: Trial, outcomes: Outcomes) -> Report:
        """Let agents decide whether to send, after their episodes."""
        broadcast, perturbed = trial.broadcast, trial.agents[: len(trial.noise)]
        sent = outcomes.discounted.astype(np.float32)
        fitness = sent.astype(np.float64)
        sends, remembered = decide(self._gate, broadcast, perturbed, fitness[: len(perturbed)], trial.noise)
        rows = np.flatnonzero(sends)
        payload = {"fitness": sent[rows]}
        if broadcast.scale is not None:
            payload["statistics"] = outcomes.statistics[rows]
        memory = np.full((len(trial.agents), broadcast.memory.shape[1]), np.nan)
        memory[: len(perturbed)] = remembered
        return Report(
            agents=trial.agents,
            returns=outcomes.returns,
            discounted=fitness,
            lengths=outcomes.lengths,
            memory=memory,
            senders=perturbed[rows].astype(AGENT_ID),
            payload=payload,
            behaviours=outcomes.behaviours,
        )
