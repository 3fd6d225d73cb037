"""An algorithm's ``train()`` without a graph. Axes: A agents, B samples of a minibatch, P parameters."""

from __future__ import annotations

from typing import Any

import torch
from sb3_contrib import MaskablePPO
from stable_baselines3 import A2C, PPO
from torch import Tensor

from rl_agg.closed_form.flat_optimizer import FlatOptimizer
from rl_agg.closed_form.memory import FlatParameters, Memory
from sb3_agg.closed_form.evaluation import Evaluation
from sb3_agg.closed_form.objectives import A2CObjective, Objective, PPOObjective
from sb3_agg.closed_form.support import Networks, check_optimizer, networks_of
from sb3_agg.hooks.base import Update

OBJECTIVES: dict[Any, type[Objective]] = {
    PPO.train: PPOObjective,
    MaskablePPO.train: PPOObjective,
    A2C.train: A2CObjective,
}
"""What each ``train()`` minimises."""


class ClosedForm:
    """What an algorithm keeps between updates by the closed form.

    :param policy: SB3's actor-critic policy.
    :raises NoClosedFormError: if there is no closed form of it.
    """

    def __init__(self, policy: Any) -> None:
        parts = networks_of(policy)
        check_optimizer(policy.optimizer, parts)
        self._policy, self._parts = policy, parts
        self._signature = _signature(policy, parts)
        self.flat = FlatParameters(parts.trained)
        self.flat.bind()
        self.evaluation = Evaluation(policy, parts, self.flat)
        self.optimizer = FlatOptimizer(policy.optimizer, self.flat)
        self._stacked: Evaluation | None = None

    def stacked(self, values: Tensor, gradients: Tensor) -> Evaluation:
        """The same networks with parameters for each agent.

        :param values: ``[A, P]``.
        :param gradients: ``[A, P]``.
        """
        known = self._stacked
        if known is None or known.memory.values is not values or known.memory.gradients is not gradients:
            known = self._stacked = Evaluation(self._policy, self._parts, Memory(self.flat.parameters, values, gradients))
        return known

    def norm(self) -> float:
        """Of the gradient in memory."""
        return float(torch.linalg.vector_norm(self.flat.gradients))

    def step(self, norm: float, max_norm: float) -> None:
        """Clip the gradient in memory as torch's ``clip_grad_norm_``, and step.

        :param norm: Of the gradient.
        :param max_norm: What it is clipped to.
        """
        factor = max_norm / (norm + 1e-6)
        if factor < 1.0:
            self.flat.gradients.mul_(factor)
        self.optimizer.step()

    def fits(self, policy: Any) -> bool:
        """Whether this is the policy that this was made for, as it was then; its parameters' values may be others.

        :param policy: SB3's.
        :raises NoClosedFormError: if there is no closed form of it.
        """
        if policy is not self._policy:
            return False
        parts = networks_of(policy)
        check_optimizer(policy.optimizer, parts)
        return _signature(policy, parts) == self._signature


@torch.no_grad()
def train_in_closed_form(model: Any, form: ClosedForm, objective: Objective, update: Update) -> None:
    """Do and log what the algorithm's own ``train()`` does.

    :param model: SB3's algorithm.
    :param form: Of its policy.
    :param objective: What it minimises.
    :param update: Takes the steps.
    """
    model.policy.set_training_mode(True)
    model._update_learning_rate(model.policy.optimizer)
    form.optimizer.take_settings()
    update.num_parameters = len(form.flat.values)
    if type(model).sample_losses is objective.sample_losses:
        update.known_losses = objective.losses
    try:
        with update.minibatches.served():
            for epoch in range(objective.num_epochs):
                stops = _train_epoch(model, form, objective, update, epoch)
                objective.end_epoch()
                model._n_updates += 1
                if stops:
                    break
    finally:  # an interrupted run can be saved
        form.optimizer.hand_back()
    objective.log()


def _train_epoch(model: Any, form: ClosedForm, objective: Objective, update: Update, epoch: int) -> bool:
    """One pass over the rollout; whether it was the last one."""
    for samples in model.rollout_buffer.get(objective.batch_size):
        update.begin()
        evaluation = update.evaluation(form)
        outputs = evaluation.evaluate(samples)
        gradients = objective.differentiate(samples, outputs)
        if objective.stops(epoch):
            return True
        update.step(form, outputs, gradients)
    return False


def closed_form_of(policy: Any, known: ClosedForm | None) -> ClosedForm:
    """The closed form of a policy as it is now.

    :param policy: SB3's actor-critic policy.
    :param known: What was made for it before, if anything.
    :raises NoClosedFormError: if there is none.
    """
    form = known if known is not None and known.fits(policy) else ClosedForm(policy)
    form.flat.bind()
    return form


def _signature(policy: Any, parts: Networks) -> tuple[Any, ...]:
    layers = [(id(layer.weight), id(layer.bias), layer.activation) for layer in (*parts.policy, *parts.value)]
    # Values of frozen parameters are read where they were
    frozen = [parameter.data_ptr() for parameter in policy.parameters() if not parameter.requires_grad]
    parameter = parts.trained[0]
    kinds = (parameter.dtype, parameter.device, id(policy.optimizer), id(policy.action_dist), id(parts.log_std))
    return (layers, [id(item) for item in parts.trained], frozen, kinds)
