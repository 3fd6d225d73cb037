"""Parameters as payload."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from torch import Tensor

from rl_agg.payloads.base import Payload
from rl_agg.validation import check_choice, check_number, unknown_choice

MOMENTS = ("keep", "merge", "reset")


@dataclass(frozen=True)
class Parameters(Payload):
    r"""Each agent has parameters of its own, steps with its own gradient, and sends its parameters to be merged.

    Weights are divided by their sum, and idle agents left out: merged parameters are an average whatever the rule.

    :param layers: Names of the modules whose parameters are merged, the others stay an agent's own; ``None``: all.
    :param local_epochs: Epochs that each agent makes of an update's, one number for each agent; ``None``: all of them. An
        agent that stops early counts as much as the others.
    :param moments: What becomes of an agent's optimiser moments at a merge: ``"keep"`` leaves each agent its own, ``"merge"``
        averages them as the parameters, ``"reset"`` starts afresh.
    :param mu: :math:`\mu` >= 0. Each local loss gains :math:`\frac{\mu}{2} \lVert \theta_a - \theta \rVert^2`, with
        :math:`\theta` the parameters merged last (FedProx).
    :raises ValueError: if a setting is out of range.

    Source: McMahan et al. (2017), algorithm 1; Li et al. (2020), equation 2; Zhang et al. (2024), section 4.3, for ``layers``.
    """

    content = "parameters"
    kind = "parameters"
    local = True

    layers: tuple[str, ...] | None = None
    local_epochs: Sequence[int] | None = None
    moments: str = "keep"
    mu: float = 0.0

    def __post_init__(self) -> None:
        check_number("mu", self.mu, least=0)
        check_choice("moments", self.moments, MOMENTS)
        epochs: Any = self.local_epochs
        if epochs is not None and (
            isinstance(epochs, str)
            or not isinstance(epochs, Sequence)
            or any(isinstance(n, bool) or not isinstance(n, Integral) or int(n) < 0 for n in epochs)
        ):
            raise ValueError(f"local_epochs must be one integer >= 0 for each agent, got {epochs!r}")
        layers: Any = self.layers
        if layers is not None:
            names = isinstance(layers, Collection) and not isinstance(layers, str) and len(layers)
            if not names or not all(isinstance(layer, str) for layer in layers):
                raise ValueError(f"layers must be names of modules, or None for all, got {layers!r}")
            object.__setattr__(self, "layers", tuple(layers))

    def check(self, num_agents: int) -> None:
        """Check that there is one of ``local_epochs`` for each agent.

        :param num_agents: A.
        :raises ValueError: if not, naming both.
        """
        if self.local_epochs is not None and len(self.local_epochs) != num_agents:
            raise ValueError(f"local_epochs must be one integer for each of {num_agents} agents, got {self.local_epochs!r}")

    def selected(self, names: Collection[str]) -> list[str]:
        """Those of some parameters that are merged, in their order.

        :param names: Of parameters, ``module.submodule.parameter``.
        :raises ValueError: if a layer is the name of no module, naming the choices.
        """
        if self.layers is None:
            return list(names)
        for layer in self.layers:
            if not any(_belongs(name, layer) for name in names):
                raise unknown_choice("layer", layer, dict.fromkeys(name.split(".")[0] for name in names))
        return [name for name in names if any(_belongs(name, layer) for layer in self.layers)]


@dataclass(frozen=True)
class ParameterDifferences(Parameters):
    """As :class:`Parameters`, but agents send the change since the last merge, and the merged change is added to it."""

    def outgoing(self, vectors: Tensor, reference: Tensor | None) -> Tensor:
        """Parameters less those merged last."""
        return vectors if reference is None else vectors - reference

    def incoming(self, merged: Tensor, reference: Tensor | None) -> Tensor:
        """The parameters merged last, changed."""
        return merged if reference is None else reference + merged


def _belongs(name: str, layer: str) -> bool:
    return name == layer or name.startswith(f"{layer}.")
