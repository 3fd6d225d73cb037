r"""SAC's loss per sample. Axes: B samples, U actions.

.. math:: l_t = w_t \sum_i H(Q_i(s_t, a_t) - y_t) + \alpha \log \pi(\tilde a_t | s_t) - \min_i Q_i(s_t, \tilde a_t), \quad
    \tilde a_t \sim \pi(s_t)

with Huber's H, importance weights w and the critics' target y. No parameter is in both parts, so that one backward pass gives
the critics' and the actor's gradients. Agents are weighed by the critics' part.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import gymnasium as gym
import torch
from ray.rllib.algorithms.sac.sac_learner import (
    ACTION_LOG_PROBS,
    ACTION_LOG_PROBS_NEXT,
    ACTION_PROBS,
    ACTION_PROBS_NEXT,
    QF_PREDS,
    QF_TARGET_NEXT,
    QF_TWIN_PREDS,
)
from ray.rllib.algorithms.sac.torch.sac_torch_learner import SACTorchLearner
from ray.rllib.core.columns import Columns
from torch import Tensor, distributed
from torch.nn import functional

from rllib_agg.aggregation.learner import STATE
from rllib_agg.aggregation.masking import loss_mask
from rllib_agg.replay.learner import ReplayLearnerMixin

LOG_ALPHAS = "log_alphas"


class OneBackward(SACTorchLearner):
    """Differentiates the sum of a module's losses, where RLlib's SAC differentiates each by itself."""

    def compute_gradients(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Tensor | None]:
        """DQN's."""
        gradients: dict[Any, Tensor | None] = super(SACTorchLearner, self).compute_gradients(loss_per_module, **kwargs)
        return gradients


class AggSACTorchLearner(ReplayLearnerMixin, OneBackward):
    """SAC's learner with the agents' gradients weighted; the entropy coefficient is that of all samples alike.

    Source: Haarnoja et al. (2018), section 5, as RLlib has it; Holen et al. (2023), section 3.
    """

    curr_log_alpha: Any
    target_entropy: Any

    def build(self) -> None:
        """Start with nothing seen."""
        super().build()
        self._alpha_losses: dict[str, Tensor] = {}

    def parameter_groups(self, module_id: str) -> list[Tensor]:
        """The critics' numbers, and the actor's."""
        named = self.module[module_id].unwrapped().named_parameters()
        sizes = [(name.startswith("pi"), parameter.numel()) for name, parameter in named if parameter.requires_grad]
        of_actor = torch.cat([torch.full((size,), is_actor, device=self.device) for is_actor, size in sizes])
        return [~of_actor, of_actor]

    def losses_per_sample(self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]) -> Tensor:
        """The critics' errors, with the sample's importance weight, and the actor's loss."""
        self.report_by_stock_loss(module_id, config, batch, fwd_out)
        log_alpha = self.curr_log_alpha[module_id]
        is_discrete = isinstance(self.module[module_id].action_space, gym.spaces.Discrete)
        terms = _discrete if is_discrete else _continuous
        values, following, actor_losses, logp = terms(batch, fwd_out, log_alpha.exp().detach(), twin_q=config.twin_q)
        following = (1.0 - batch[Columns.TERMINATEDS].float()) * following
        targets = (batch[Columns.REWARDS] + config.gamma ** batch["n_step"] * following).detach()
        errors = [batch["weights"] * functional.huber_loss(value, targets, reduction="none") for value in values]
        critic_losses = torch.stack(errors).sum(0)
        self.reported[module_id] = critic_losses.detach()
        entropy_gaps = (logp + self.target_entropy[module_id]).detach()[loss_mask(batch)]
        self._alpha_losses[module_id] = -(log_alpha * entropy_gaps).mean()
        return actor_losses + critic_losses

    def apply_gradients(self, gradients_dict: dict[Any, Tensor | None]) -> None:
        """As above, without what RLlib's loss leaves for its own gradients."""
        super().apply_gradients(gradients_dict)
        self._temp_losses.clear()

    def _differentiate(self, loss_per_module: dict[str, Any], **kwargs: Any) -> dict[Any, Tensor | None]:
        """The learner's, with each entropy coefficient's gradient, over the samples of all learners."""
        gradients = super()._differentiate(loss_per_module, **kwargs)
        for module_id, loss in self._alpha_losses.items():
            log_alpha = self.curr_log_alpha[module_id]
            (gradient,) = torch.autograd.grad(loss, log_alpha)
            if self.config.num_learners > 1:  # otherwise each would have another coefficient
                distributed.all_reduce(gradient)
                gradient = gradient / self.config.num_learners
            gradients[self.get_param_ref(log_alpha)] = gradient
        self._alpha_losses.clear()
        return gradients

    def get_state(
        self, components: str | Collection[str] | None = None, *, not_components: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """The learner's; a full one with the entropy coefficients, which RLlib does not save."""
        state = super().get_state(components, not_components=not_components, **kwargs)
        if STATE in state:
            state[STATE][LOG_ALPHAS] = {id_: self.curr_log_alpha[id_].item() for id_ in list(self.module.keys())}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """The learner's, with the entropy coefficients."""
        super().set_state(state)
        for module_id, value in state.get(STATE, {}).get(LOG_ALPHAS, {}).items():
            self.curr_log_alpha[module_id].data.fill_(value)


Terms = tuple[list[Tensor], Tensor, Tensor, Tensor]
"""Values of the actions that were taken, by critic; what follows; the actor's losses; log-probabilities, or their mean over
actions. Each ``[B]``."""


def _continuous(batch: dict[str, Any], fwd_out: dict[str, Any], alpha: Tensor, *, twin_q: bool) -> Terms:
    values = [fwd_out[QF_PREDS], *([fwd_out[QF_TWIN_PREDS]] if twin_q else [])]
    following = fwd_out[QF_TARGET_NEXT] - alpha * fwd_out["logp_next_resampled"]
    logp = fwd_out["logp_resampled"]
    return values, following, alpha * logp - fwd_out["q_curr"], logp


def _discrete(batch: dict[str, Any], fwd_out: dict[str, Any], alpha: Tensor, *, twin_q: bool) -> Terms:
    actions = batch[Columns.ACTIONS].long().unsqueeze(-1)
    critics = [fwd_out[QF_PREDS], *([fwd_out[QF_TWIN_PREDS]] if twin_q else [])]
    after = fwd_out[QF_TARGET_NEXT] - alpha * fwd_out[ACTION_LOG_PROBS_NEXT]
    following = (fwd_out[ACTION_PROBS_NEXT] * after).sum(-1)
    probs, log_probs = fwd_out[ACTION_PROBS], fwd_out[ACTION_LOG_PROBS]
    least = torch.stack(critics).amin(0).detach()
    actor_losses = (probs * (alpha * log_probs - least)).sum(-1)
    return [values.gather(-1, actions).squeeze(-1) for values in critics], following, actor_losses, (log_probs * probs).sum(-1)
