"""How much each agent counts: signals to weights."""

from collections.abc import Collection

from rl_agg.payloads.base import CONTENTS, VECTORS
from rl_agg.registry import Registry
from rl_agg.rules.agreement import agreement_weights
from rl_agg.rules.base import RegisteredRule, Rule
from rl_agg.rules.equal_norms import equal_norm_weights
from rl_agg.rules.explained import explained_weights
from rl_agg.rules.fitness import centered, ranks, raw
from rl_agg.rules.guarded import guarded_weights
from rl_agg.rules.loss import has_mixed_signs, loss_weights
from rl_agg.rules.precision import precision_weights
from rl_agg.rules.reward import reward_shares, reward_weights
from rl_agg.rules.samples import sample_weights
from rl_agg.rules.uniform import mean_weights, sum_weights
from rl_agg.signals import BASIC, MEASURED
from rl_agg.validation import unknown_choice

__all__ = ["RULES", "RegisteredRule", "Rule", "has_mixed_signs", "register_rule"]

SCORES = frozenset({"scores"})
RETURNS, LOSSES, SAMPLES = frozenset({"returns"}), frozenset({"losses"}), frozenset({"num_samples"})
EXPLAINED, AGREEMENT = frozenset({"explained_variance"}), frozenset({"agreement"})

RULES: Registry[RegisteredRule] = Registry(
    "rule",
    "aggregation",
    {
        "sum": RegisteredRule(sum_weights),
        "mean": RegisteredRule(mean_weights, payloads=VECTORS | {"transitions"}),
        "samples": RegisteredRule(sample_weights, SAMPLES),
        "r_weighted": RegisteredRule(reward_weights, RETURNS, VECTORS | SCORES),
        "l_weighted": RegisteredRule(loss_weights, LOSSES, VECTORS | SCORES),
        "reward_shares": RegisteredRule(reward_shares, RETURNS, VECTORS | SCORES),
        "e_weighted": RegisteredRule(explained_weights, EXPLAINED),
        "agreement": RegisteredRule(agreement_weights, AGREEMENT),
        "snr_weighted": RegisteredRule(precision_weights, frozenset({"noise"})),
        "equal_norms": RegisteredRule(equal_norm_weights, frozenset({"norms"})),
        "guarded": RegisteredRule(guarded_weights, EXPLAINED | AGREEMENT, guard=0.05),
        "raw": RegisteredRule(raw, RETURNS, SCORES),
        "centered": RegisteredRule(centered, RETURNS, SCORES),
        "ranks": RegisteredRule(ranks, RETURNS, SCORES),
    },
)
"""Rules by name. A callable of the same shape is accepted wherever a name is."""


def register_rule(name: str, rule: Rule, *, needs: Collection[str] = BASIC, payloads: Collection[str] = VECTORS) -> None:
    """Let ``aggregation=name`` stand for a rule.

    :param name: What users write.
    :param rule: ``rule(signals, **settings) -> weights [A]``. It sees agents that are present, with gaps in their signals
        filled.
    :param needs: Signals that it reads; what it does not read is neither computed nor counted as sent. Of those that are
        remembered, see :mod:`rl_agg.rules.memory`, it sees running means, for which users set ``smoothing`` and ``guard``.
    :param payloads: What it can weigh, by the payload's ``content``.
    :raises ValueError: if the name is taken or not an identifier, ``rule`` cannot be called, or a signal or a
        payload is unknown.
    """
    if not callable(rule) or isinstance(rule, type):
        raise ValueError(f"a rule must be a function of signals, got {rule!r}")
    for kind, names, choices in (("signal", needs, MEASURED), ("content of a payload", payloads, CONTENTS)):
        for unknown in sorted(set(names) - set(choices)):
            raise unknown_choice(kind, unknown, choices)
    RULES.register(name, RegisteredRule(rule, frozenset(needs), frozenset(payloads)))
