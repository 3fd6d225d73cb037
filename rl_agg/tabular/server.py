"""What servers and agents of tabular algorithms share. Axes: A agents, k of them here, P parameters, K remembered numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rl_agg.exchange import Exchange
from rl_agg.gates import EveryGate, Gate
from rl_agg.population.reports import AGENT_ID, LARGEST_POPULATION, Report
from rl_agg.population.server import Broadcast, PopulationServer
from rl_agg.scheme import Scheme
from rl_agg.seeding import episode_seeds, fresh_run, stream
from rl_agg.tabular.episodes import Choose, TabularEpisodes, choose_actions
from rl_agg.validation import check_count, check_number

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class TabularSettings:
    """Settings that servers and agents of all tabular algorithms share.

    :param population: A.
    :param lr: Step size > 0.
    :param epsilon: Share of random actions, in [0, 1].
    :param communication: The gate: ``every`` or one that derives from :attr:`gate_class`, by its name in
        :data:`rl_agg.GATES`.
    :param communication_kwargs: Settings of the gate.
    :raises ValueError: if one is unknown or out of range.
    """

    payload: ClassVar[str]
    """What agents send, a name of :data:`rl_agg.PAYLOADS`; messages have this name in a report."""
    gate_class: ClassVar[type[Gate]]
    """Of gates that go with the algorithm; all but TD-EF's are asked by one agent alone, after its episode."""
    provides: ClassVar[frozenset[str]] = frozenset()
    """See :meth:`rl_agg.Scheme.check`."""

    population: int = 5
    lr: float = 1.0
    epsilon: float = 0.1
    communication: str = "every"
    communication_kwargs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_count("population", self.population, least=1, most=LARGEST_POPULATION)
        check_number("lr", self.lr, above=0)
        check_number("epsilon", self.epsilon, least=0, most=1)
        if not isinstance(self.communication_kwargs, Mapping):
            raise ValueError(f"communication_kwargs must be a dict, got {self.communication_kwargs!r}")
        self.make_exchange().check()
        self.make_gate()

    @property
    def scheme(self) -> Scheme:
        """The gate, and the mean of what it lets agents send."""
        return Scheme(gate=self.communication, gate_kwargs=self.communication_kwargs, rule="mean", payload=self.payload)

    def make_exchange(self, run: int = 0) -> Exchange:
        """What carries the scheme out, before the first update.

        :param run: See :mod:`rl_agg.seeding`.
        """
        return Exchange(self.scheme, self.population, provides=self.provides, seed=run)

    def make_gate(self) -> Gate:
        """The gate in its state before the first update.

        :raises ValueError: if an agent cannot ask it by itself.
        """
        gate = self.scheme.make_gate(self.population)
        if not isinstance(gate, EveryGate | self.gate_class):
            raise ValueError(
                f"gate {self.communication!r} decides about all agents at once, but payload {self.payload!r} is sent by each "
                f"agent alone, after its episode; choose every, or a gate that derives from rl_agg.gates."
                f"{self.gate_class.__name__}"
            )
        return gate


class TabularAgents:
    """Runs the episodes of any agents, and of the server, whose number is A and which acts greedily.

    :param episodes: Runs the episodes.
    :param settings: As the server's.
    """

    choose: Choose = staticmethod(choose_actions)
    """How actions are chosen from :meth:`action_values`."""

    def __init__(self, episodes: TabularEpisodes, settings: TabularSettings) -> None:
        self.episodes = episodes
        self.epsilon, self.payload = settings.epsilon, settings.payload

    def close(self) -> None:
        """Close the environments."""
        self.episodes.environments.close()

    def action_values(self, theta: Floats) -> Floats:
        """What to act on ``[C, U]``, for parameters ``[P]``."""
        raise NotImplementedError

    def empty_message(self, theta: Floats) -> NDArray[Any]:
        """A message of no rows."""
        raise NotImplementedError

    def message(self, theta: Floats, rows: NDArray[np.void], memory: Floats, update: int) -> tuple[NDArray[Any], Floats]:
        """What an agent sends after an episode.

        :param theta: Parameters ``[P]``.
        :param rows: The episode's transitions ``[T]``.
        :param memory: What the agent remembers ``[K]``.
        :param update: Counted from 0.
        :return: Message rows, possibly none, and the new memory ``[K]``.
        """
        raise NotImplementedError

    def run(self, broadcast: Broadcast, agents: NDArray[np.int64]) -> Report:
        """Run an episode with each agent.

        :param broadcast: What the server sent.
        :param agents: Numbers in [0, A], ascending ``[k]``.
        """
        run, update, size = broadcast.run, broadcast.update, len(broadcast.memory)
        theta = broadcast.theta.astype(np.float64)
        ran = self.episodes(
            self.action_values(theta),
            episode_seeds(run, update, size + 1)[agents],
            [stream("actions", run, update, agent) for agent in agents.tolist()],
            np.where(agents < size, self.epsilon, 0.0),
            self.choose,
        )
        memory = np.zeros((len(agents), broadcast.memory.shape[1]))
        senders, sent = [np.empty(0, AGENT_ID)], [self.empty_message(theta)]
        for row, agent in enumerate(agents[agents < size].tolist()):
            memory[row] = broadcast.memory[agent]
            if np.isfinite(ran.returns[row]):
                rows, memory[row] = self.message(theta, ran.transitions[row], memory[row], update)
                senders.append(np.full(len(rows), agent, AGENT_ID))
                sent.append(rows)
        payload = {self.payload: np.concatenate(sent)}
        return Report(agents, ran.returns, ran.discounted, ran.lengths, memory, np.concatenate(senders), payload)


class TabularServer(PopulationServer):
    """Adds the agents' memory; a subclass learns from the messages.

    :param theta: Initial parameters ``[P]``.
    :param settings: As the agents'.
    :param num_remembered: K.
    :param run: See :class:`~rl_agg.population.server.PopulationServer`.
    """

    def __init__(self, theta: NDArray[np.float32], settings: TabularSettings, num_remembered: int, run: int | None) -> None:
        run = fresh_run() if run is None else run
        super().__init__(theta, settings.make_exchange(run), run)
        self._memory = np.zeros((self.num_agents, num_remembered))

    @property
    def memory(self) -> Floats:
        """What agents remember ``[A, K]``."""
        return self._memory

    def state_dict(self) -> dict[str, Any]:
        """A copy of all that later updates depend on, parameters and memory included."""
        return {**super().state_dict(), "memory": self._memory.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`, to the bit. With another gate or number of agents, all memory is reset."""
        super().load_state_dict(state)
        same_gate = state["exchange"]["scheme"]["gate"] == self.exchange.scheme.gate
        fits = same_gate and state["memory"].shape == self._memory.shape
        self._memory = state["memory"].copy() if fits else np.zeros_like(self._memory)
