"""What the hooks know of each off-policy algorithm: its networks, their optimisers, and the loss of its critics."""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import sb3_contrib.qrdqn.qrdqn
import sb3_contrib.tqc.tqc
import torch
from sb3_contrib import QRDQN, TQC
from stable_baselines3 import DQN, SAC, TD3


@dataclass(frozen=True)
class Part:
    """A network whose gradients the agents send.

    :param network: The algorithm's attribute.
    :param optimizer: Its optimiser, by the name that files have it under.
    :param method: What ``train()`` calls for outputs that it differentiates.
    """

    network: str
    optimizer: str
    method: str = "forward"


@dataclass(frozen=True)
class Algorithm:
    r"""How an algorithm's ``train()`` is followed.

    :param parts: In each gradient step each of them is evaluated at most once, and then its optimiser steps.
    :param loss: A module, and the name there of the function that makes the mean loss of a batch's estimates and targets.
    :param loss_factor: What ``train()`` multiplies the sum over critics by.
    """

    parts: tuple[Part, ...]
    loss: tuple[ModuleType, str]
    loss_factor: float = 1.0


CRITIC = Part("critic", "critic.optimizer")
SAMPLING_ACTOR = Part("actor", "actor.optimizer", "action_log_prob")

ALGORITHMS: dict[type, Algorithm] = {
    DQN: Algorithm((Part("q_net", "policy.optimizer"),), (torch.nn.functional, "smooth_l1_loss")),
    QRDQN: Algorithm((Part("quantile_net", "policy.optimizer"),), (sb3_contrib.qrdqn.qrdqn, "quantile_huber_loss")),
    SAC: Algorithm((CRITIC, SAMPLING_ACTOR), (torch.nn.functional, "mse_loss"), loss_factor=0.5),
    TD3: Algorithm((CRITIC, Part("actor", "actor.optimizer")), (torch.nn.functional, "mse_loss")),
    TQC: Algorithm((CRITIC, SAMPLING_ACTOR), (sb3_contrib.tqc.tqc, "quantile_huber_loss")),
}
"""Algorithms whose loss is a mean over samples, each of which reaches the parameters through its own rows of the outputs."""


def algorithm_of(kind: type) -> Algorithm | None:
    """What is known of an algorithm, or of the one that it derives from."""
    return next((ALGORITHMS[base] for base in kind.__mro__ if base in ALGORITHMS), None)
