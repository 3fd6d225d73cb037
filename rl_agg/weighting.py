r"""How much each agent counts: signals -> weights. Axis A: agents.

Every rule is a pure function of the signals of the agents that are present; gaps are filled before it sees them. What
holds for all of them (masking, missing signals, ``normalize``, detachment) is written once, in :class:`Weighting`.

    w = rule(signals of the agents present),   w_a = 0 for the others,   w <- w / sum(w) with ``normalize``

Source: Holen et al. (2023), section 3 and algorithms 2 and 3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from rl_agg.signals import MEASURED, Signals
from rl_agg.validation import check_required, check_settings, unknown_choice

Rule = Callable[..., Tensor]
"""``rule(signals, **settings) -> weights [A]`` over agents that are all present and have all reported."""

GUARDS: dict[str, Callable[[Tensor], Tensor]] = {
    "shift": lambda losses: losses - losses.min(),
    "abs": lambda losses: losses.abs(),
    "clip": lambda losses: losses.clamp(min=0),
}
"""What makes losses of mixed sign shareable, by name."""
MIXED_SIGN_CHOICES = (*GUARDS, "literal")


def sum_weights(signals: Signals) -> Tensor:
    """Add the gradients up: :math:`w_a = 1`.

    Source: Holen et al. (2023), Baseline-Sum.
    """
    return torch.ones_like(_any_signal(signals))


def mean_weights(signals: Signals) -> Tensor:
    """Average the gradients: :math:`w_a = 1/A`.

    Source: Holen et al. (2023), Baseline-Avg.
    """
    return torch.full_like(_any_signal(signals), 1.0 / signals.num_agents)


def sample_weights(signals: Signals) -> Tensor:
    r"""Count every sample alike: :math:`w_a = n_a / \sum_b n_b`; no samples at all: :math:`1/A`.

    :param signals: ``num_samples`` ``[A]``, >= 0.
    :return: Weights ``[A]``, summing to 1.
    :raises ValueError: if ``num_samples`` is missing.

    Source: McMahan et al. (2017), equation 7 in Holen et al. (2023).
    """
    return _share(_required(signals, "num_samples"))


def reward_weights(signals: Signals, *, h: float | None = None) -> Tensor:
    r"""Give each agent a say in proportion to its episodic return.

    :math:`w_a = (r_a - \min r) / \sum_b (r_b - \min r) + 1/h`

    :param signals: ``returns`` ``[A]``, undiscounted, in the environment's own units.
    :param h: Unitless, > 0. The floor every agent keeps is ``1/h``; ``None`` means ``A``.
    :return: Weights ``[A]``, summing to ``1 + A/h``. All returns equal: ``1/A + 1/h``.
    :raises ValueError: if ``h`` is not positive or ``returns`` is missing.

    Source: Holen et al. (2023), algorithm 2. Differs: the equal-returns case, undefined there.
    """
    returns = _required(signals, "returns")
    return _share(returns - returns.min()) + _floor(h, signals.num_agents)


def loss_weights(signals: Signals, *, h: float | None = None, mixed_sign: str = "shift") -> Tensor:
    r"""Give each agent a say in proportion to its loss.

    :math:`w_a = L_a / \sum_b L_b + 1/h` where all losses are >= 0 and their sum is positive. Losses of mixed sign make that
    line explode or change sign, so there ``mixed_sign`` decides.

    :param signals: ``losses`` ``[A]``, unitless.
    :param h: Unitless, > 0. The floor every agent keeps is ``1/h``; ``None`` means ``A``.
    :param mixed_sign: ``"shift"`` subtracts the minimum, as for rewards; ``"abs"`` takes magnitudes; ``"clip"`` counts
        negative losses as zero; ``"literal"`` applies the line above as it is printed, whatever comes out.
    :return: Weights ``[A]``, summing to ``1 + A/h``. No loss, or all equal where shifted: ``1/A + 1/h``.
    :raises ValueError: if ``h`` is not positive, ``mixed_sign`` is unknown or ``losses`` is missing.

    Source: Holen et al. (2023), algorithm 3. Differs: mixed signs and a sum of zero, undefined there.
    """
    if mixed_sign not in MIXED_SIGN_CHOICES:
        raise unknown_choice("mixed_sign", mixed_sign, MIXED_SIGN_CHOICES)
    losses = _required(signals, "losses")
    one_sign = mixed_sign == "literal" or bool((losses > 0).all())  # nearly always, and cheaper than asking further
    if not one_sign and bool(has_mixed_signs(losses)):
        losses = GUARDS[mixed_sign](losses)
    return _share(losses) + _floor(h, signals.num_agents)


def has_mixed_signs(losses: Tensor) -> Tensor:
    """Tell where L-weights need their guard: a negative loss, or no positive one.

    :param losses: ``[..., A]``; NaN is ignored.
    :return: bool ``[...]``.
    """
    return (losses < 0).any(-1) | (losses.nansum(-1) <= 0)


@dataclass(frozen=True, slots=True)
class RegisteredRule:
    """A rule and the signals it reads."""

    function: Rule
    needs: frozenset[str] = frozenset()


RULES: dict[str, RegisteredRule] = {
    "sum": RegisteredRule(sum_weights),
    "mean": RegisteredRule(mean_weights),
    "samples": RegisteredRule(sample_weights, frozenset({"num_samples"})),
    "r_weighted": RegisteredRule(reward_weights, frozenset({"returns"})),
    "l_weighted": RegisteredRule(loss_weights, frozenset({"losses"})),
}
"""Rules by name. A callable of the same shape is accepted wherever a name is."""


@dataclass(frozen=True)
class Weighting:
    """A rule with its settings, checked once and then applied to one :class:`~rl_agg.Signals` after another.

    :param rule: A name from :data:`RULES`, or ``rule(signals, **settings) -> weights [A]``. A callable sees the agents that
        are present only, with the gaps in their signals filled.
    :param settings: Keyword arguments of the rule.
    :param normalize: Divide by the sum of the weights, the paper's "softmax" variant.
    :raises ValueError: if the rule or a setting is unknown, or a setting has a value that the rule refuses.
    """

    rule: str | Rule
    settings: dict[str, Any] = field(default_factory=dict)
    normalize: bool = False
    needs: frozenset[str] = field(init=False)
    _function: Rule = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.rule, str):
            if self.rule not in RULES:
                raise unknown_choice("aggregation", self.rule, RULES)
            function, needs = RULES[self.rule].function, RULES[self.rule].needs
        elif callable(self.rule):
            function, needs = self.rule, frozenset(MEASURED)
        else:
            raise ValueError(f"a rule is a name or a callable, got {self.rule!r}; names: {', '.join(sorted(RULES))}")
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "needs", needs)
        check_settings(self.name, function, self.settings, given=1, also=("normalize",))
        check_required(self.name, function, self.settings, given=1)
        if isinstance(self.rule, str):  # a dry run on two agents refuses bad values at the door
            self(Signals(returns=torch.ones(2), losses=torch.ones(2), num_samples=torch.ones(2)))

    @property
    def name(self) -> str:
        """The rule's name, or the callable's."""
        return self.rule if isinstance(self.rule, str) else getattr(self.rule, "__name__", type(self.rule).__name__)

    def __call__(self, signals: Signals) -> Tensor:
        """Weigh the agents.

        :param signals: What they report, each ``[A]``.
        :return: Weights ``[A]``, detached, in the signals' dtype; zero for masked agents, all zero if nobody is present.
        :raises ValueError: if a signal that the rule needs is missing, a callable returns another shape, or the weights to be
            normalized sum to zero.
        """
        if signals.complete():
            return self._weigh(signals)
        present = ~signals.masked()
        if not bool(present.any()):
            return torch.zeros_like(_any_signal(signals, self.needs))
        part = self._weigh(signals.of(present).without_gaps())
        weights_ = part.new_zeros(signals.num_agents)  # the rule's own dtype and device: signals may differ in theirs
        weights_[present.to(part.device)] = part
        return weights_

    @torch.no_grad()
    def _weigh(self, signals: Signals) -> Tensor:
        weights_ = self._function(signals, **self.settings)
        if not isinstance(weights_, Tensor) or weights_.shape != (signals.num_agents,):
            got = f"shape {tuple(weights_.shape)}" if isinstance(weights_, Tensor) else f"{weights_!r}"
            raise ValueError(f"{self.name} must return a tensor [A] = [{signals.num_agents}], got {got}")
        weights_ = weights_.detach()  # a callable may hand out a tensor that it made outside no_grad
        if not isinstance(self.rule, str):
            weights_ = weights_ if weights_.is_floating_point() else weights_.to(_any_signal(signals).dtype)
            if not bool(weights_.isfinite().all()):
                raise ValueError(f"{self.name} returned weights that are not finite: {weights_.tolist()}")
        if not self.normalize:
            return weights_
        total = weights_.sum()
        if bool(total == 0):
            raise ValueError(f"{self.name} returned weights that sum to 0, which cannot be normalized: {weights_.tolist()}")
        return weights_ / total


def weights(rule: str | Rule, signals: Signals, *, normalize: bool = False, **settings: Any) -> Tensor:
    """Weigh the agents by a rule.

    >>> weights("r_weighted", Signals(returns=[0.0, 1.0, 3.0])).tolist()
    [0.3333333333333333, 0.5833333333333333, 1.0833333333333333]

    :param rule: A name from :data:`RULES` or a callable, see :class:`Weighting`.
    :param signals: What the agents report, each ``[A]``.
    :param normalize: Divide by the sum of the weights.
    :param settings: Keyword arguments of the rule.
    :return: Weights ``[A]``, detached.
    :raises ValueError: as :class:`Weighting`.
    """
    return Weighting(rule, settings, normalize)(signals)


def _required(signals: Signals, name: str) -> Tensor:
    value: Tensor | None = getattr(signals, name)
    if value is None:
        raise ValueError(f"this rule needs Signals.{name}, which was not given")
    return value


def _any_signal(signals: Signals, preferred: Collection[str] = ()) -> Tensor:
    for name in sorted(MEASURED, key=lambda name: name not in preferred):
        value: Tensor | None = getattr(signals, name)
        if value is not None:
            return value
    assert signals.present is not None
    return signals.present.to(torch.float64)


def _floor(h: float | None, num_agents: int) -> float:
    if h is None:
        return 1.0 / num_agents
    value: Any = h  # NumPy's numbers are no Python floats
    if isinstance(value, bool) or not isinstance(value, Real) or not float(value) > 0:
        raise ValueError(f"h must be a positive number or None for the number of agents, got {h!r}")
    return 1.0 / h


def _share(values: Tensor) -> Tensor:
    """Each agent's part of the whole; equal parts where the whole is zero."""
    total = values.sum()
    return torch.where(total == 0, 1.0 / len(values), values / total)
