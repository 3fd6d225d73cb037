"""The aggregators of the library TorchJD. Axes: A agents, P parameters."""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from rl_agg.combiners.base import Combiner
from rl_agg.validation import check_choice, check_settings


class TorchJD(Combiner):
    """An aggregator of the library TorchJD, under ``torchjd:NAME``.

    :param aggregator: The name of a class in ``torchjd.aggregation``.
    :param settings: Arguments of its constructor.
    :raises ImportError: if TorchJD is not installed, or the aggregator needs a package that is not.
    :raises ValueError: if TorchJD has no such aggregator, or it does not accept the settings.

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
        check_choice("TorchJD aggregator", aggregator, known)
        self._aggregator = getattr(aggregation, aggregator)
        self.name = f"torchjd:{aggregator}"
        self._settings = dict(settings)
        check_settings(self.name, self._aggregator, settings)
        self._built = self._build()

    def _build(self) -> Any:
        with self._named_errors(f"refuses {self._settings}"):
            return self._aggregator(**self._settings)

    def check(self, num_agents: int) -> None:
        """Try it on as many agents."""
        with torch.random.fork_rng(devices=[]):  # some of them draw
            built = self._build()
            with self._named_errors(f"with {self._settings} cannot combine {num_agents} agents"):
                built(torch.eye(num_agents, 2))

    @contextmanager
    def _named_errors(self, failure: str) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise ImportError(f"{self.name} needs a package that rl-agg does not install: {error}") from error
        except Exception as error:  # TorchJD raises several kinds
            raise ValueError(f"{self.name} {failure}: {error}") from error

    def state_dict(self) -> dict[str, Any]:
        """A copy of the aggregator: some keep averages outside of what torch counts as a module's state."""
        return {"aggregator": copy.deepcopy(self._built)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`, if it is of the same aggregator."""
        saved = state.get("aggregator")
        if type(saved) is type(self._built):
            self._built = copy.deepcopy(saved)

    def merge(self, gradients: Tensor, *, num_masked: int, step: int) -> Tensor:
        """Let TorchJD combine; what it draws at random depends on the step alone, so that all learners draw alike.

        :raises ValueError: if it cannot combine so few.
        """
        devices = [gradients.device] if gradients.is_cuda else []
        failure = f"cannot combine {len(gradients)} agents, {num_masked} masked"
        with torch.random.fork_rng(devices=devices), self._named_errors(failure):
            torch.manual_seed(step)
            merged: Tensor = self._built(gradients)
        return merged
