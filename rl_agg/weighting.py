r"""How much each agent counts: signals -> weights. Axis A: agents.

Every rule is a pure function of the signals of the agents that are present; gaps are filled before it sees them. What
holds for all of them (masking, missing signals, ``normalize``, detachment) is written once, in :class:`Weighting`.

    w = rule(signals of the agents present),   w_a = 0 for the others,   w <- w / sum(w) with ``normalize``

Source: Holen et al. (2023), section 3 and algorithms 2 and 3.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rl_agg.payloads.base import VECTORS
from rl_agg.returned import tensor_of
from rl_agg.rules import RULES, Rule
from rl_agg.rules.memory import SMOOTHING, STARTS
from rl_agg.signals import BASIC, MEASURED, Signals, any_signal
from rl_agg.validation import check_flag, check_number, check_settings

MEMORY_SETTINGS = ("smoothing", "guard")
"""Settings of rules that read signals which are remembered."""


@dataclass(frozen=True)
class Weighting:
    """A rule with its settings, checked once and then applied to one :class:`~rl_agg.Signals` after another.

    :param rule: A name from :data:`RULES`, or ``rule(signals, **settings) -> weights [A]``, a tensor, an array or a sequence.
        A callable sees the agents that are present only, with the gaps in their signals filled. It is used itself, not a
        copy of it.
    :param settings: Keyword arguments of the rule.
    :param normalize: Divide by the sum of the weights, the paper's "softmax" variant.
    :param smoothing: Of the running means of :attr:`remembered` signals, in [0, 1): 0 keeps the last update's alone;
        ``None``: 0.7.
    :param guard: In (0, 1): the agents' remembered signals differ only where it is established that one is worse, which
        happens with at most this probability among agents that are all alike, see :mod:`rl_agg.rules.evidence`; ``None``: the
        rule's own choice, which for most is none.
    :raises ValueError: if the rule or a setting is unknown, or a setting has a value that is out of range, or does not act.
    """

    rule: str | Rule
    settings: dict[str, Any] = field(default_factory=dict)
    normalize: bool = False
    smoothing: float | None = None
    guard: float | None = None
    needs: frozenset[str] = field(init=False)
    """Signals that the rule reads."""
    payloads: frozenset[str] = field(init=False)
    """What it can weigh, by the payload's ``content``."""
    _function: Rule = field(init=False, repr=False)
    _is_foreign: bool = field(init=False, repr=False, compare=False)  # what a user's rule returns is checked

    def __post_init__(self) -> None:
        check_flag("normalize", self.normalize)
        if "normalize" in self.settings:
            raise ValueError(f"normalize is an argument of its own, got settings={self.settings!r}")
        if isinstance(self.rule, str):
            found = RULES.find(self.rule)
            function, needs, payloads = found.function, found.needs, found.payloads
            if self.guard is None:
                object.__setattr__(self, "guard", found.guard)
        elif callable(self.rule):
            function, needs, payloads = self.rule, frozenset(BASIC), VECTORS | {"scores"}
        else:
            raise ValueError(f"a rule is a name or a callable, got {self.rule!r}; names: {', '.join(sorted(RULES))}")
        object.__setattr__(self, "_function", function)
        object.__setattr__(self, "_is_foreign", not isinstance(self.rule, str) or self.rule in RULES.added)
        object.__setattr__(self, "needs", needs)
        object.__setattr__(self, "payloads", payloads)
        also = ("normalize", *MEMORY_SETTINGS) if self.remembered else ("normalize",)
        check_settings(self.name, function, self.settings, given=1, also=also, complete=True)
        self._check_memory()
        if isinstance(self.rule, str):  # a dry run on two agents finds bad values
            self(Signals(**dict.fromkeys(MEASURED, torch.ones(2))))

    def _check_memory(self) -> None:
        for name in MEMORY_SETTINGS:
            if getattr(self, name) is not None and not self.remembered:
                raise ValueError(f"{self.name} reads no signal that is remembered, so {name} would do nothing; leave it out")
        if self.smoothing is None:
            object.__setattr__(self, "smoothing", SMOOTHING if self.remembered else None)
        if self.smoothing is not None:
            check_number("smoothing", self.smoothing, least=0, below=1)
        if self.guard is not None:
            check_number("guard", self.guard, above=0, below=1)

    @property
    def remembered(self) -> frozenset[str]:
        """Signals that it reads the running means of."""
        return self.needs & STARTS.keys()

    @property
    def name(self) -> str:
        """The rule's name, or the callable's."""
        return self.rule if isinstance(self.rule, str) else getattr(self.rule, "__name__", type(self.rule).__name__)

    @property
    def has_state(self) -> bool:
        """Whether it is a callable with a ``state_dict`` and a ``load_state_dict``."""
        return hasattr(self._function, "state_dict") and hasattr(self._function, "load_state_dict")

    def state_dict(self) -> dict[str, Any]:
        """A copy of the callable's, if it has one."""
        return copy.deepcopy(dict(self._function.state_dict())) if self.has_state else {}  # type: ignore[attr-defined]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; one without content, as of a rule that had no state, changes nothing."""
        if self.has_state and state:
            self._function.load_state_dict(state)  # type: ignore[attr-defined]

    def __call__(self, signals: Signals) -> Tensor:
        """Weigh the agents.

        :param signals: What they report, each ``[A]``.
        :return: Weights ``[A]``, detached, in the signals' dtype; zero for masked agents, all zero if no agent is present.
        :raises ValueError: if a signal that the rule needs is missing, a callable returns another shape, or the weights to be
            normalized sum to zero.
        """
        if signals.complete():
            return self._weigh(signals)
        present = ~signals.masked()
        if not bool(present.any()):
            return torch.zeros_like(any_signal(signals, self.needs))
        part = self._weigh(signals.of(present).without_gaps())
        weights_ = part.new_zeros(signals.num_agents)  # the rule's own dtype and device: signals may differ in theirs
        weights_[present.to(part.device)] = part
        return weights_

    @torch.no_grad()
    def _weigh(self, signals: Signals) -> Tensor:
        weights_: Tensor = self._function(signals, **self.settings)
        if self._is_foreign:
            weights_ = self._checked(weights_, signals)
        if not self.normalize:
            return weights_
        total = weights_.sum()
        if not math.isfinite(float(total)):  # weights whose sum is beyond their dtype
            weights_ = weights_ / weights_.abs().max() / len(weights_)
            total = weights_.sum()
        if bool(total == 0):
            raise ValueError(f"{self.name} returned weights that sum to 0, which cannot be normalized: {weights_.tolist()}")
        return weights_ / total

    def _checked(self, returned: Any, signals: Signals) -> Tensor:
        """What a user's rule returned, as weights."""
        like = any_signal(signals)
        weights_ = tensor_of(returned, like)  # detached: it may have been made outside no_grad
        if weights_ is None or weights_.shape != (signals.num_agents,):
            got = f"shape {tuple(returned.shape)}, {returned.dtype}" if hasattr(returned, "shape") else f"{returned!r}"
            raise ValueError(f"{self.name} must return one weight for each agent, [A] = [{signals.num_agents}], got {got}")
        weights_ = weights_ if weights_.is_floating_point() else weights_.to(like.dtype)
        if not bool(weights_.isfinite().all()):
            raise ValueError(f"{self.name} returned weights that are not finite: {weights_.tolist()}")
        return weights_


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
