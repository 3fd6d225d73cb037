r"""Agents that send something else than their gradient or parameters, to test what an aggregation tolerates.

For tests and studies: nothing here hides an attack. Axes: A agents, P parameters.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rl_agg.validation import build, check_agents, check_agents_exist, check_choice, check_count, check_number

ATTACKS: dict[str, Callable[[Tensor, float, torch.Generator], Tensor]] = {
    "sign_flip": lambda gradients, scale, _: -scale * gradients,
    "scale": lambda gradients, scale, _: scale * gradients,
    "random": lambda gradients, scale, generator: (
        scale
        * gradients.norm(dim=1, keepdim=True)
        / gradients.shape[1] ** 0.5
        * torch.randn(gradients.shape, generator=generator).to(gradients)
    ),
    "nan": lambda gradients, scale, _: torch.full_like(gradients, torch.nan),
}
"""What ``[F, P]`` gradients of the attackers become, by name."""


@dataclass(frozen=True)
class Attack:
    r"""Replace the gradients or parameters of some agents before they are sent.

    :param kind: ``"sign_flip"`` sends :math:`-s g`, ``"scale"`` :math:`s g`, ``"random"`` a Gaussian vector of :math:`s` times
        the gradient's expected norm, ``"nan"`` no number at all.
    :param agents: Which agents, numbers from 0 to A - 1.
    :param scale: :math:`s`, unitless.
    :param seed: Of ``"random"``, together with the step.
    :raises ValueError: if the kind is unknown, an agent is no number >= 0, the scale is not finite or the seed negative.

    Source: Blanchard et al. (2017), section 5, for ``random`` and ``sign_flip``.
    """

    kind: str
    agents: Sequence[int]
    scale: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_choice("attack", self.kind, ATTACKS)
        check_agents(self.agents, "who attack")
        check_number("scale", self.scale)
        check_count("seed", self.seed, least=0)

    def check(self, num_agents: int) -> None:
        """Raise if an agent index is out of range.

        :param num_agents: A.
        :raises ValueError: if an agent's number is A or larger.
        """
        check_agents_exist(self.agents, num_agents, "attack")

    def __call__(self, gradients: Tensor, step: int) -> Tensor:
        """Replace the attackers' rows.

        :param gradients: ``[A, P]``.
        :param step: How many gradients came before.
        :return: ``[A, P]``; the argument is left as it is.
        """
        attackers = torch.as_tensor(list(self.agents), device=gradients.device)
        seed = int(np.random.SeedSequence((self.seed, step)).generate_state(1)[0])
        generator = torch.Generator().manual_seed(seed)
        attacked = gradients.clone()
        attacked[attackers] = ATTACKS[self.kind](gradients[attackers], self.scale, generator)
        return attacked


def make_attack(attack: Attack | Mapping[str, Any] | None) -> Attack | None:
    """Build what ``attack=`` asks for.

    :param attack: An attack, its settings, or ``None``.
    :raises ValueError: if it is none of these, or a setting is unknown.
    """
    if isinstance(attack, Mapping):
        return build("attack", Attack, attack)
    if attack is not None and not isinstance(attack, Attack):
        raise ValueError(f"attack must be an Attack or a dict of its settings, got {attack!r}")
    return attack
