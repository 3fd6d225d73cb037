"""Settings that are refused when a model is made, each with one line that names the remedy. The core tests their values."""

from __future__ import annotations

import re
import warnings
from typing import Any

import pytest
import torch

from rl_agg.attacks import Attack
from rl_agg.combiners import Median
from sb3_agg import AggPPO
from tests.sb3.worlds import cartpoles

REFUSED: list[tuple[dict[str, Any], str]] = [
    # Rules
    ({"aggregation": "r_wieghted"}, "unknown aggregation 'r_wieghted' (did you mean 'r_weighted'?); choose from a_pps"),
    ({"aggregation": 3}, "a rule is a name or a callable, got 3"),
    ({"aggregation": "mean", "aggregation_kwargs": {"h": 3}}, "mean has no setting 'h'"),
    ({"aggregation": "r_weighted", "aggregation_kwargs": {"h": 0}}, "h must be a positive number"),
    ({"aggregation": "l_weighted", "aggregation_kwargs": {"mixed_sign": "drop"}}, "unknown mixed_sign 'drop'; choose"),
    ({"aggregation_kwargs": [1, 2]}, "aggregation_kwargs must be a dict, got [1, 2]"),
    ({"aggregation": lambda signals, *, power: signals.returns}, "needs 'power'"),
    # Combiners
    (
        {"aggregation": "krum", "aggregation_kwargs": {"num_byzantine": 2}},
        "krum with num_byzantine=2 needs more than 4 agents",
    ),
    ({"aggregation": "median", "aggregation_kwargs": {"normalize": True}}, "median has no setting 'normalize'"),
    ({"aggregation": Median}, "Median is a class; give its name 'median'"),
    ({"aggregation": "torchjd:UPGard"}, "unknown TorchJD aggregator 'UPGard' (did you mean 'UPGrad'?)"),
    ({"aggregation": "torchjd:Krum", "aggregation_kwargs": {"n_byzantine": 3}}, "cannot combine 4 agents"),
    # Gates and attacks
    ({"communication": "lagg"}, "unknown communication 'lagg' (did you mean 'lag'?); choose from deviation"),
    ({"communication_kwargs": {"xi": 1}}, "every has no setting 'xi', which is one of communication 'lag'"),
    ({"communication": "lag", "communication_kwargs": {"xi": -1}}, "xi must be a finite number >= 0, got -1"),
    ({"attack": {"kind": "flip", "agents": [0]}}, "unknown attack 'flip' (did you mean 'sign_flip'?); choose from nan"),
    ({"attack": {"kind": "nan"}}, "attack needs 'agents', got {'kind': 'nan'}"),
    ({"attack": Attack("nan", [7])}, "agent 7 cannot attack: agents are numbered 0 to 3"),
    ({"attack": "nan"}, "attack must be an Attack or a dict of its settings, got 'nan'"),
    # Local models
    ({"aggregation": "fedavg", "minibatches": "stock"}, "work with minibatches='stratified' only, got 'stock'"),
    (
        {"aggregation": "fedavg", "communication": "espc"},
        "gate 'espc' decides about scores, but payload 'parameters' exchanges parameters",
    ),
    ({"aggregation": "fedavg", "payload": "scores"}, "but payload='scores' was given; leave one out"),
    ({"compression_kwargs": {"error_feedback": True}}, "error_feedback=True has nothing to feed back: codec 'identity'"),
    ({"compression": "zip"}, "unknown compression 'zip'; choose from bfloat16, float16, identity, "),
    ({"interval": 0}, "interval must be an integer >= 1, got 0"),
    ({"aggregation": "fedavg", "aggregation_kwargs": {"local_epochs": [2, 2, 2, 9]}}, "must be at most n_epochs=2, got"),
    (
        {"aggregation": "fedavg", "aggregation_kwargs": {"local_epochs": [1]}},
        "one integer for each of 4 agents, got [1]",
    ),
    ({"aggregation": "actor_sum", "aggregation_kwargs": {"interval": 2}}, "actor_sum has no setting 'interval'"),
    (
        {"aggregation": "fedavg", "policy_kwargs": {"optimizer_class": torch.optim.Adafactor}},
        "optimizer_class Adafactor cannot step for several agents",
    ),
    # Rollouts and minibatches
    ({"advantage_norm": "batch"}, "unknown advantage_norm 'batch'; choose from agent, stock"),
    ({"minibatches": "random"}, "unknown minibatches 'random'; choose from stock, stratified"),
    ({"min_episodes": -1}, "min_episodes must be an integer >= 0, got -1"),
    ({"closed_form": "no"}, "closed_form must be True or False, got 'no'"),
    ({"fused_optimizer": None}, "fused_optimizer must be True or False, got None"),
    ({"min_episodes": 1.5}, "min_episodes must be an integer >= 0, got 1.5"),
]


def build(**settings: Any) -> AggPPO:
    settings = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, "device": "cpu", **settings}
    return AggPPO("MlpPolicy", cartpoles(4), **settings)


@pytest.mark.parametrize(("settings", "message"), REFUSED)
def test_bad_settings_raise_when_a_model_is_made(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        build(**settings)
    assert "\n" not in str(caught.value)


def test_good_settings_warn_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(aggregation="median", communication="lag").learn(64)


def test_unknown_arguments_are_refused() -> None:
    with pytest.raises(TypeError, match="agregation"):
        build(agregation="mean")
