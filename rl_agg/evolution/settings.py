"""The settings of an evolution strategy, checked when created."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rl_agg.combiners import COMBINERS
from rl_agg.evolution.novelty import NOVELTIES, NoveltySearch
from rl_agg.evolution.optimizers import OPTIMIZERS, SGD, Adam
from rl_agg.evolution.reuse import SampleReuse
from rl_agg.exchange import Exchange
from rl_agg.gates import ScoreGate
from rl_agg.population.reports import LARGEST_POPULATION
from rl_agg.rules import RULES, Rule
from rl_agg.scheme import Scheme
from rl_agg.validation import build, check_choice, check_count, check_flag, check_number, unknown_choice
from rl_agg.weighting import Weighting

BROADCASTS = ("parameters", "seeds")
NOVELTY_GATES = ("every", "random")
"""Gates that do not go by returns."""

REUSE_THRESHOLD = 0.2


@dataclass(frozen=True)
class EvolutionSettings:
    """Settings that server and agents share.

    :param population: A, agents, each one episode in an update.
    :param noise_stdev: sigma > 0, standard deviation of the noise on the parameters.
    :param lr: Step size > 0.
    :param fitness: How much each return counts: a rule over scores of :data:`rl_agg.RULES`, ``raw``, ``centered`` or ``ranks``
        among them, a callable ``signals -> weights [A]`` or a weighting. See :meth:`EvolutionStrategy.learn` for rules that
        weigh losses.
    :param fitness_kwargs: The rule's own settings, and ``normalize``.
    :param antithetic: Agents in pairs have the same noise with opposite signs.
    :param optimizer: ``adam``, ``sgd`` or ``momentum``.
    :param optimizer_kwargs: The optimizer's own settings, see :mod:`rl_agg.evolution.optimizers`.
    :param l2_coeff: >= 0, pulls parameters towards 0.
    :param communication: The gate of the returns, a name from :data:`rl_agg.GATES`.
    :param expected_messages: m, the wanted number of messages in an update, for gates that have such a setting.
    :param communication_kwargs: The gate's own settings.
    :param broadcast: What the server sends: ``parameters``, or ``seeds``: agents keep the parameters, and take each step by
        themselves from the senders' numbers, of which their noise is drawn, and what each counts for.
    :param budget_bytes_per_update: Bytes that all agents together may send in an update, on average; ``expected_messages``
        follows it, see :mod:`rl_agg.byte_budget`.
    :param novelty: Searches for new behaviour: ``ns``, ``nsr`` or ``nsra``, see :mod:`rl_agg.evolution.novelty`.
    :param novelty_kwargs: Its own settings.
    :param reuse: Samples of how many earlier updates are used again, see :mod:`rl_agg.evolution.reuse`.
    :param reuse_threshold: Least effective number of an earlier update's samples, as a share of them, in (0, 1]; ``None``:
        0.2.
    :raises ValueError: if one is unknown or out of range.
    """

    population: int = 50
    noise_stdev: float = 0.05
    lr: float = 0.01
    fitness: str | Rule | Weighting = "centered"
    fitness_kwargs: Mapping[str, Any] = field(default_factory=dict)
    antithetic: bool = True
    optimizer: str = "adam"
    optimizer_kwargs: Mapping[str, Any] = field(default_factory=dict)
    l2_coeff: float = 0.005
    communication: str = "every"
    expected_messages: int | None = None
    communication_kwargs: Mapping[str, Any] = field(default_factory=dict)
    broadcast: str = "parameters"
    budget_bytes_per_update: float | None = None
    novelty: str | None = None
    novelty_kwargs: Mapping[str, Any] = field(default_factory=dict)
    reuse: int = 0
    reuse_threshold: float | None = None

    def __post_init__(self) -> None:
        check_count("population", self.population, least=1, most=LARGEST_POPULATION)
        check_flag("antithetic", self.antithetic)
        check_choice("broadcast", self.broadcast, BROADCASTS)
        if self.antithetic and self.population % 2:
            raise ValueError(f"antithetic=True pairs agents, so population must be even, got {self.population}")
        check_number("noise_stdev", self.noise_stdev, above=0)
        check_number("l2_coeff", self.l2_coeff, least=0)
        if not callable(self.fitness) and self.fitness not in (*RULES, *COMBINERS):
            fitting = [name for name, rule in RULES.items() if "scores" in rule.payloads]
            raise unknown_choice("fitness", self.fitness, fitting)
        for name in ("fitness_kwargs", "communication_kwargs", "novelty_kwargs"):
            if not isinstance(getattr(self, name), Mapping):
                raise ValueError(f"{name} must be a dict, got {getattr(self, name)!r}")
        if self.expected_messages is not None and "expected_messages" in self.communication_kwargs:
            raise ValueError("expected_messages is given twice; leave it out of communication_kwargs")
        if self.communication == "random" and "seed" in self.communication_kwargs:
            raise ValueError("gate 'random' over scores draws by the run's own seed; leave seed out of communication_kwargs")
        if self.fitness in ("centered", "ranks") and self.population < 2:
            raise ValueError(f"fitness {self.fitness!r} compares agents, so population must be at least 2")
        self.make_optimizer(1)
        self.make_exchange().check()
        self.make_gate()
        self._check_novelty()
        self._check_reuse()

    def _check_novelty(self) -> None:
        """Check the search for novelty.

        :raises ValueError: if a setting is unknown, or returns decide who sends.
        """
        if self.make_novelty() is None:
            if self.novelty_kwargs:
                raise ValueError(f"novelty_kwargs={dict(self.novelty_kwargs)} has no effect without novelty")
        elif self.communication not in NOVELTY_GATES:
            raise ValueError(
                f"gate {self.communication!r} goes by returns, but with novelty={self.novelty!r} behaviours count; choose "
                f"{' or '.join(NOVELTY_GATES)}"
            )

    def _check_reuse(self) -> None:
        """Check the reuse of samples.

        :raises ValueError: if a setting is out of range, agents would have to take the step, or novelties would be used again,
            which change with the archive.
        """
        check_count("reuse", self.reuse, least=0)
        if self.reuse_threshold is not None:
            check_number("reuse_threshold", self.reuse_threshold, above=0, most=1)
            if not self.reuse:
                raise ValueError(f"reuse_threshold={self.reuse_threshold!r} has no effect without reuse")
        if self.reuse and self.broadcast == "seeds":
            raise ValueError(
                f"reuse={self.reuse} steps by samples of earlier updates, which broadcast='seeds' does not send; leave one out"
            )
        if self.reuse and self.novelty is not None:
            raise ValueError(
                f"reuse={self.reuse} uses returns again, but with novelty={self.novelty!r} novelties count, which change with "
                "the archive; leave one out"
            )

    def check_normalization(self, normalizes: bool) -> None:
        """Check that observations may be normalised.

        :raises ValueError: if returns are used again, which came from observations on another scale.
        """
        if normalizes and self.reuse:
            raise ValueError(
                f"reuse={self.reuse} uses returns again, but normalised observations change their scale in between; leave "
                "normalize_observations out"
            )

    def make_novelty(self) -> NoveltySearch | None:
        """The search for novelty with an empty archive, if there is one."""
        if self.novelty is None:
            return None
        check_choice("novelty", self.novelty, NOVELTIES)
        return build(self.novelty, NOVELTIES[self.novelty], self.novelty_kwargs)

    def make_reuse(self) -> SampleReuse | None:
        """What remembers samples, if they are used again."""
        threshold = REUSE_THRESHOLD if self.reuse_threshold is None else self.reuse_threshold
        if not self.reuse:
            return None
        return SampleReuse(self.reuse, threshold, noise_stdev=self.noise_stdev, antithetic=self.antithetic)

    def make_optimizer(self, num_parameters: int) -> SGD | Adam:
        """The optimizer of P parameters."""
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        return build(self.optimizer, OPTIMIZERS[self.optimizer], self.optimizer_kwargs, num_parameters, self.lr)

    @property
    def scheme(self) -> Scheme:
        """Gate and rule, over scores."""
        expected = {} if self.expected_messages is None else {"expected_messages": self.expected_messages}
        return Scheme(
            gate=self.communication,
            gate_kwargs={**expected, **self.communication_kwargs},
            rule=self.fitness,
            rule_kwargs=self.fitness_kwargs,
            payload="scores",
            budget_bytes_per_update=self.budget_bytes_per_update,
        )

    def make_exchange(self) -> Exchange:
        """What carries the scheme out, before the first update."""
        return Exchange(self.scheme, self.population)

    def make_gate(self) -> ScoreGate:
        """The gate in its state before the first update.

        :raises ValueError: if it decides about scores, but not at the agents.
        """
        gate = self.scheme.make_gate(self.population)
        if not isinstance(gate, ScoreGate):
            raise ValueError(
                f"gate {self.communication!r} decides about scores, so it must derive from rl_agg.gates.ScoreGate"
            )
        return gate
