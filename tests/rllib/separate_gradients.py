"""Each agent's own gradient, by one backward pass of RLlib's own loss for each."""

from __future__ import annotations

import sys
from typing import Any

import torch
from ray import cloudpickle
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.algorithms.ppo.torch.ppo_torch_learner import PPOTorchLearner
from ray.rllib.core.columns import Columns
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor

from rllib_agg.aggregation.learner_group import AggLearnerGroup
from tests.rllib.groups import MODULE, on_each
from tests.rllib.ppo_configs import tiny_ppo

cloudpickle.register_pickle_by_value(sys.modules[__name__])

NUM_AGENTS = 5


def separate_gradients(group: AggLearnerGroup, episodes: list[Any], spaces: dict[str, Any]) -> Tensor:
    """One backward of RLlib's own loss for each agent alone ``[A, P]``, with the group's weights."""
    config = PPOConfig().environment("CartPole-v1").rl_module(model_config=dict(tiny_ppo().model_config))
    learner = config.build_learner(spaces=spaces)
    assert type(learner) is PPOTorchLearner
    learner.module.set_state(group.get_weights())
    coefficient = on_each(group, lambda learner: learner.curr_kl_coeffs_per_module[MODULE].item())[0]
    learner.curr_kl_coeffs_per_module[MODULE].data.fill_(coefficient)
    columns = learner._learner_connector(
        rl_module=learner.module, batch={}, episodes=episodes, shared_data={}, metrics=learner.metrics
    )[MODULE]
    module = learner.module[MODULE]
    columns[Postprocessing.ADVANTAGES] = columns[Postprocessing.VALUE_TARGETS] - module.compute_values(columns).detach()
    rows = []
    for agent in range(NUM_AGENTS):
        chosen = (columns["agg_agent"] == agent) & columns[Columns.LOSS_MASK]
        own = {name: column[chosen] for name, column in columns.items() if torch.is_tensor(column)}
        loss = learner.compute_loss_for_module(
            module_id=MODULE, config=learner.config, batch=own, fwd_out=module.forward_train(own)
        )
        module.zero_grad()
        loss.backward()
        rows.append(torch.cat([parameter.grad.flatten() for parameter in module.parameters()]))
    return torch.stack(rows)


def flat(named: dict[str, Tensor]) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in named.values()])


def spy_on(exchange: Any) -> None:
    """Have an exchange keep what it was last given."""
    merge = exchange.merge

    def noted(matrix: Tensor, signals: Any, *, idle: Tensor, **kwargs: Any) -> Any:
        exchange.seen = matrix.clone(), signals.present, idle
        return merge(matrix, signals, idle=idle, **kwargs)

    exchange.merge = noted
