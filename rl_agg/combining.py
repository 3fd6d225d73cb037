r"""Gradients of all agents, combined by more than a weighted sum. Axes: A agents, P parameters.

A combiner maps the matrix of gradients ``[A, P]`` to one ``[P]`` on the scale of their mean, so that identical gradients
combine to themselves. The robust ones bear some agents that send anything at all, as long as they are few.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from rl_agg.choices import build, check_count, check_number, check_settings, unknown_choice
from rl_agg.distances import FAR, distances_of, drawn_near, seen_from_the_middle, squared_distances
from rl_agg.sorting import trimmed_mean


class Combiner(ABC):
    """Combine the gradients of the agents that are present; subclass it for a combiner of your own."""

    by_parameter: ClassVar[bool] = False
    """Whether it treats each parameter by itself. It is then faster where a parameter's gradients lie beside each other, and
    ``merge`` may overwrite them."""

    by_distance: ClassVar[bool] = False
    """Whether it weighs the gradients, and their distances from each other are all that it looks at."""

    def at(self, step: int) -> Combiner:
        """The combiner for a step, of one that is several."""
        return self

    def weigh(self, squared_distances: Tensor, *, num_masked: int) -> Tensor | None:
        """Weights of gradients that are not at hand; for combiners that say ``by_distance``.

        :param squared_distances: Between any two gradients ``[A', A']``; may be overwritten.
        :param num_masked: As for :meth:`merge`.
        :return: ``[A']``; ``None`` if it has to see the gradients.
        """
        raise NotImplementedError(f"{type(self).__name__} does not weigh gradients by their distances")

    def check(self, num_agents: int) -> None:  # noqa: B027 - most work with any number
        """Refuse a number of agents that it cannot work with.

        :param num_agents: A.
        :raises ValueError: naming the setting and the bound.
        """

    @torch.no_grad()
    def __call__(self, gradients: Tensor, *, present: Tensor | None = None, step: int = 0, overwrite: bool = False) -> Tensor:
        """Combine.

        :param gradients: ``[A, P]``, detached, in units of the loss per parameter.
        :param present: Who takes part ``[A]``, bool; ``None`` means all. The rows of the others are not read.
        :param step: How many gradients have been combined before, for combiners that change from step to step.
        :param overwrite: Whether ``gradients`` may be changed, which may save a copy.
        :return: ``[P]``; zeros if nobody is present.
        :raises ValueError: if ``gradients`` is not a matrix.
        """
        _check_matrix(gradients)
        rows = gradients if present is None or bool(present.all()) else gradients[present]
        if not len(rows):
            return gradients.new_zeros(gradients.shape[1])
        combiner = self.at(step)
        if combiner.by_parameter and rows is gradients and not overwrite:
            rows = rows.clone()
        return combiner.merge(rows, num_masked=len(gradients) - len(rows), step=step)

    @abstractmethod
    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Combine gradients that all take part.

        :param gradients: ``[A', P]``, A' >= 1.
        :param num_masked: How many agents were left out because what they sent was not finite.
        :param step: As above.
        :return: ``[P]``.
        """


@dataclass(frozen=True)
class Median(Combiner):
    """The median of every parameter's gradients; between the two middle ones for an even number.

    Source: Yin et al. (2018), definition 1.
    """

    by_parameter = True

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """The mean of what is left when all but the middle one or two are trimmed."""
        return trimmed_mean(gradients, (len(gradients) - 1) // 2)


@dataclass(frozen=True)
class _Byzantine(Combiner):
    """A combiner that bears ``num_byzantine`` faulty agents; those that are masked already count among them.

    :param num_byzantine: f, how many agents may send anything at all.
    :raises ValueError: if f is not an integer >= 0.
    """

    num_byzantine: int = 1

    def __post_init__(self) -> None:
        check_count("num_byzantine", self.num_byzantine, least=0)

    @staticmethod
    @abstractmethod
    def most_byzantine(num_agents: int) -> int:
        """The largest f that ``num_agents`` allow."""

    def check(self, num_agents: int) -> None:
        """Refuse an f that A agents do not allow."""
        most = self.most_byzantine(num_agents)
        if self.num_byzantine > most:
            raise ValueError(
                f"{name_of(self)} with num_byzantine={self.num_byzantine} needs more than {num_agents} agents, which allow "
                f"{f'at most {most}' if most >= 0 else 'none'}"
            )

    def tolerated(self, num_present: int, num_masked: int) -> int:
        """f among the agents that are left."""
        return max(0, min(self.num_byzantine - num_masked, self.most_byzantine(num_present)))


@dataclass(frozen=True)
class TrimmedMean(_Byzantine):
    """The mean of every parameter's gradients without its f largest and f smallest.

    :param num_byzantine: f, less than half of the agents.

    Source: Yin et al. (2018), definition 2.
    """

    by_parameter = True

    @staticmethod
    def most_byzantine(num_agents: int) -> int:
        """Something must be left to average."""
        return (num_agents - 1) // 2

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Sort each parameter's gradients and average the middle."""
        return trimmed_mean(gradients, self.tolerated(len(gradients), num_masked))


@dataclass(frozen=True)
class Krum(_Byzantine):
    r"""The gradient with the nearest neighbours, or the mean of several such (multi-Krum).

    :math:`s_a = \sum_{b \to a} \lVert g_a - g_b \rVert^2` over the :math:`A - f - 2` nearest neighbours of a; the
    gradients of the smallest scores are averaged.

    :param num_byzantine: f; :math:`A \ge 2f + 3`.
    :param num_selected: How many gradients are averaged, 1 to A; 1 is Krum, more is multi-Krum.

    Source: Blanchard et al. (2017), section 4.
    """

    by_distance = True

    num_selected: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("num_selected", self.num_selected, least=1)

    @staticmethod
    def most_byzantine(num_agents: int) -> int:
        """The bound of its proof."""
        return (num_agents - 3) // 2

    def check(self, num_agents: int) -> None:
        """Refuse an f or a selection that A agents do not allow."""
        super().check(num_agents)
        if self.num_selected > num_agents:
            raise ValueError(f"krum cannot select num_selected={self.num_selected} of {num_agents} agents")

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Average the gradients of the smallest scores."""
        distances = distances_of(gradients @ gradients.T)
        if distances is None:
            distances = squared_distances(seen_from_the_middle(gradients)[2])
        return gradients[self._chosen(distances, num_masked)].mean(0)

    def weigh(self, squared_distances: Tensor, *, num_masked: int) -> Tensor:
        """Weigh those of the smallest scores alike, the others not at all."""
        chosen = self._chosen(squared_distances, num_masked)
        return squared_distances.new_zeros(len(squared_distances)).index_fill_(0, chosen, 1.0 / len(chosen))

    def _chosen(self, distances: Tensor, num_masked: int) -> Tensor:
        num_agents = len(distances)
        if num_agents < 3:  # no neighbours to be near to
            return torch.arange(num_agents, device=distances.device)
        num_neighbours = max(1, num_agents - self.tolerated(num_agents, num_masked) - 2)
        distances.fill_diagonal_(torch.inf)  # nobody is their own neighbour
        scores = distances.topk(num_neighbours, largest=False).values.sum(1)
        return scores.topk(min(self.num_selected, num_agents), largest=False).indices


@dataclass(frozen=True)
class GeometricMedian(Combiner):
    r"""The point with the least sum of distances to all gradients, by Weiszfeld's iteration.

    :math:`z \leftarrow \sum_a w_a g_a / \sum_a w_a, \quad w_a = 1 / \max(\nu, \lVert g_a - z \rVert)`

    An iteration works on the A distances, not on P parameters, for z is always a weighted sum of the gradients.

    :param num_iterations: Further ones, beyond a first guess, >= 1.
    :param smoothing: :math:`\nu` > 0, in units of a typical distance between two gradients.

    Source: Pillutla et al. (2022), algorithm 2. Differs: smoothing is relative, for gradients have no scale of their own. The
    first guess weighs each gradient by its median distance from the others instead of all alike: from their mean, a faulty
    gradient far enough away would need more iterations than there are.
    """

    by_distance = True

    num_iterations: int = 10
    smoothing: float = 1e-6

    def __post_init__(self) -> None:
        check_count("num_iterations", self.num_iterations, least=1)
        check_number("smoothing", self.smoothing, above=0)

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Average with the weights that Weiszfeld's iteration ends at."""
        distances = distances_of(gradients @ gradients.T)
        weights = None if distances is None else self.weigh(distances, num_masked=num_masked)
        if weights is not None:
            return weights @ gradients
        middle, unit, relative = seen_from_the_middle(gradients)
        relative = drawn_near(relative)
        return middle + unit * (self._weights(squared_distances(relative)).to(relative) @ relative)

    def weigh(self, squared_distances: Tensor, *, num_masked: int) -> Tensor | None:
        """Weights that Weiszfeld's iteration ends at; ``None`` if some gradients are very far away."""
        if bool(squared_distances.max() > FAR**2 * squared_distances.median(1).values.median()):
            return None
        return self._weights(squared_distances).to(squared_distances)

    def _weights(self, squared_distances: Tensor) -> Tensor:
        if len(squared_distances) < 3:  # every point between two is one
            return squared_distances.new_full((len(squared_distances),), 1.0 / len(squared_distances))
        # An [A, A] matrix is too small for anything but the CPU; float64 keeps the distances when others are far larger
        squared = squared_distances.double().cpu().numpy()
        to_others = np.sort(squared, axis=1)[:, (len(squared) - 1) // 2]
        least = self.smoothing * np.sqrt(np.sort(to_others)[(len(squared) - 1) // 2])
        if least == 0.0:  # most gradients are the same, and so is the median
            same = to_others == 0.0
            return torch.from_numpy(same / same.sum())
        distances = np.sqrt(to_others)
        for _ in range(self.num_iterations):
            weights = 1.0 / np.maximum(distances, least)
            weights /= weights.sum()
            to_each = squared @ weights
            distances = np.sqrt(np.maximum(to_each - 0.5 * (weights @ to_each), 0.0))
        weights = 1.0 / np.maximum(distances, least)
        return torch.from_numpy(weights / weights.sum())


@dataclass(frozen=True)
class MixTailor(Combiner):
    """Another combiner at each step, drawn at random so that no attack can be tailored to it.

    :param combiners: What to draw from: names, or names with their settings.
    :param seed: Together with the step it decides the draw; equal everywhere, all learners draw alike.
    :raises ValueError: if there is nothing to draw from, or one of them is refused.

    Source: Ramezani-Kebrya et al. (2023), algorithm 1.
    """

    by_parameter = True  # as some of them

    combiners: Sequence[str] | Mapping[str, Mapping[str, Any]] = ("median", "trimmed_mean", "krum", "geometric_median")
    seed: int = 0
    _pool: tuple[Combiner, ...] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_count("seed", self.seed, least=0)
        if isinstance(self.combiners, str) or not isinstance(self.combiners, Sequence | Mapping) or not self.combiners:
            raise ValueError(f"combiners must be several names, or a mapping of names to settings, got {self.combiners!r}")
        settings = self.combiners if isinstance(self.combiners, Mapping) else {name: {} for name in self.combiners}
        pool = tuple(make_combiner(name, own or {}) for name, own in settings.items())
        object.__setattr__(self, "_pool", pool)

    def check(self, num_agents: int) -> None:
        """Refuse what any of them refuses."""
        for combiner in self._pool:
            combiner.check(num_agents)

    def at(self, step: int) -> Combiner:
        """Draw one."""
        drawn = np.random.default_rng([self.seed, step]).integers(len(self._pool))
        return self._pool[drawn].at(step)

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Draw one and let it combine."""
        return self.at(step).merge(gradients, num_masked=num_masked, step=step)


class TorchJD(Combiner):
    """An aggregator of the library TorchJD, under ``torchjd:NAME``.

    :param aggregator: The name of a class in ``torchjd.aggregation``.
    :param settings: Arguments of its constructor.
    :raises ImportError: if TorchJD is not installed, or the aggregator needs a package that is not.
    :raises ValueError: if TorchJD has no such aggregator, or it refuses the settings.

    Source: Quinton and Rey (2024).
    """

    def __init__(self, aggregator: str, settings: Mapping[str, Any]) -> None:
        try:
            from torchjd import aggregation
        except ImportError as error:
            raise ImportError(f"torchjd:{aggregator} needs TorchJD: pip install 'rl-agg[torchjd]'") from error
        known = {
            name
            for name, item in vars(aggregation).items()
            if isinstance(item, type) and issubclass(item, aggregation.Aggregator) and not name.endswith("Aggregator")
        }
        if aggregator not in known:
            raise unknown_choice("TorchJD aggregator", aggregator, known)
        self._aggregator = getattr(aggregation, aggregator)
        self.name = f"torchjd:{aggregator}"
        self._settings = dict(settings)
        check_settings(self.name, self._aggregator, settings)
        self._built = self._build()

    def _build(self) -> Any:
        try:
            return self._aggregator(**self._settings)
        except ImportError as error:
            raise ImportError(f"{self.name} needs a package that rl-agg does not install: {error}") from error
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.name} refuses {self._settings}: {error}") from error

    def check(self, num_agents: int) -> None:
        """Try it on as many agents."""
        try:
            with torch.random.fork_rng(devices=[]):  # some of them draw
                self._build()(torch.eye(num_agents, 2))
        except ImportError as error:
            raise ImportError(f"{self.name} needs a package that rl-agg does not install: {error}") from error
        except Exception as error:  # whatever a third party raises
            raise ValueError(f"{self.name} with {self._settings} cannot combine {num_agents} agents: {error}") from error

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Let TorchJD combine; what it draws at random depends on the step alone, so that all learners draw alike.

        :raises ValueError: if it cannot do with those that are present.
        """
        devices = [gradients.device] if gradients.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(step)
            try:
                merged: Tensor = self._built(gradients)
            except ValueError as error:
                raise ValueError(
                    f"{self.name} cannot combine {len(gradients)} agents, {num_masked} masked: {error}"
                ) from error
        return merged


TORCHJD = "torchjd:"

COMBINERS: dict[str, type[Combiner]] = {
    "median": Median,
    "trimmed_mean": TrimmedMean,
    "krum": Krum,
    "geometric_median": GeometricMedian,
    "mixtailor": MixTailor,
}
"""Combiners by name; ``torchjd:NAME`` adds those of TorchJD."""


def make_combiner(name: str, settings: Mapping[str, Any]) -> Combiner:
    """Build a combiner by name.

    :param name: A name from :data:`COMBINERS`, or ``torchjd:NAME``.
    :param settings: Its settings.
    :raises ValueError: if the name, a setting or a value is unknown.
    :raises ImportError: if TorchJD is asked for and not there.
    """
    if isinstance(name, str) and name.startswith(TORCHJD):
        return TorchJD(name.removeprefix(TORCHJD), settings)
    if name not in COMBINERS:
        raise unknown_choice("combiner", name, [*COMBINERS, "torchjd:NAME"])
    return build(name, COMBINERS[name], settings)


def combine(name: str, gradients: Any, **settings: Any) -> Tensor:
    """Combine gradients by name.

    >>> combine("median", [[0.0], [1.0], [100.0]])
    tensor([1.])

    :param name: As :func:`make_combiner`.
    :param gradients: ``[A, P]``; rows that are not finite are left out.
    :param settings: Settings of the combiner.
    :return: ``[P]``, detached; zeros if no row is finite.
    :raises ValueError: as :func:`make_combiner`, if ``gradients`` is not a matrix, or if the combiner cannot work with A
        agents.
    """
    combiner, matrix = make_combiner(name, settings), torch.as_tensor(gradients).detach()
    if not matrix.is_floating_point():
        matrix = matrix.to(torch.get_default_dtype())
    _check_matrix(matrix)
    combiner.check(len(matrix))
    return combiner(matrix, present=matrix.isfinite().all(1))


def name_of(combiner: Combiner) -> str:
    """What users call it."""
    kind = type(combiner)
    if isinstance(combiner, TorchJD):
        return combiner.name
    return next((name for name, known in COMBINERS.items() if known is kind), kind.__name__)


def _check_matrix(gradients: Tensor) -> None:
    if gradients.ndim != 2 or 0 in gradients.shape:
        raise ValueError(f"gradients must be [A, P] with A, P >= 1, got shape {tuple(gradients.shape)}")
