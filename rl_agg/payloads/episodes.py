"""What agents of a population send after an episode."""

from dataclasses import dataclass

from rl_agg.payloads.base import Payload


@dataclass(frozen=True)
class Scores(Payload):
    """The return of an episode with perturbed parameters; the server draws the perturbation again from a shared seed (ES)."""

    content = "scores"
    kind = "scalars"


@dataclass(frozen=True)
class Transitions(Payload):
    """Transitions between the cells of a table (DQL)."""

    content = "transitions"
    kind = "transitions"
