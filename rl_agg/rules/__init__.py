"""How much each agent counts: signals to weights."""

from rl_agg.rules.base import RegisteredRule, Rule
from rl_agg.rules.loss import has_mixed_signs
from rl_agg.rules.registry import RULES, register_rule

__all__ = ["RULES", "RegisteredRule", "Rule", "has_mixed_signs", "register_rule"]
