"""Learner groups whose settings change while they live, because starting one takes seconds."""

from __future__ import annotations

import copy
import sys
from typing import Any

import tree
from ray import cloudpickle
from torch import Tensor

from rllib_agg.aggregation.learner_group import AggLearnerGroup
from tests.rllib.ppo_configs import tiny_ppo

cloudpickle.register_pickle_by_value(sys.modules[__name__])

MODULE = "default_policy"
UPDATE = {"num_epochs": 1, "minibatch_size": None, "timesteps": {}}


def start_group(spaces: dict[str, Any], num_learners: int, **training: Any) -> AggLearnerGroup:
    """Learners for AggPPO on CartPole."""
    config = tiny_ppo(**training).learners(num_learners=num_learners)
    config.validate()
    return config.build_learner_group(spaces=spaces)


def configure(group: AggLearnerGroup, **training: Any) -> None:
    """Change a live group's training settings; what aggregation remembers starts afresh."""
    group.config = group.config.copy(copy_frozen=False).training(**training)

    def change(learner: Any) -> None:
        learner.config = learner.config.copy(copy_frozen=False).training(**training)
        learner.aggregators.clear()

    on_each(group, change)


def on_each(group: AggLearnerGroup, read: Any) -> list[Any]:
    """What a function says of each learner."""
    return [result.get() for result in group.foreach_learner(read)]


def gradients(group: AggLearnerGroup) -> list[dict[str, Tensor]]:
    """What the last minibatch left in each learner."""
    return on_each(group, gradients_of)


def gradients_of(learner: Any) -> dict[str, Tensor]:
    """What the last minibatch left."""
    return {name: parameter.grad.clone() for name, parameter in learner.module[MODULE].unwrapped().named_parameters()}


def plain(state: Any) -> Any:
    """A state with copies of its tensors as arrays, which can be compared."""
    return tree.map_structure(lambda leaf: leaf.numpy().copy() if isinstance(leaf, Tensor) else copy.deepcopy(leaf), state)
