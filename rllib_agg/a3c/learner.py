r"""A3C's loss, differentiated on env runners, and the step, taken by the server's learner.

.. math::
    d\theta = \nabla_{\theta'} \log \pi(a_t|s_t; \theta') (R_t - V(s_t; \theta_v))
        + \beta \nabla_{\theta'} H(\pi(s_t; \theta'))

:math:`R_t` is the n-step return to the end of the fragment, bootstrapped there.

Source: Mnih et al. (2016), algorithm S3; equation 5 in Holen et al. (2023). Differs: mean over the fragment instead of the
sum, and RLlib's Adam instead of RMSProp with shared statistics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.algorithms.ppo.ppo import LEARNER_RESULTS_CURR_ENTROPY_COEFF_KEY
from ray.rllib.connectors.learner import AddOneTsToEpisodesAndTruncate
from ray.rllib.core import DEFAULT_MODULE_ID
from ray.rllib.core.columns import Columns
from ray.rllib.core.learner.learner import ENTROPY_KEY, POLICY_LOSS_KEY, VF_LOSS_KEY
from ray.rllib.core.rl_module.apis import ValueFunctionAPI
from ray.rllib.evaluation.postprocessing import Postprocessing
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from ray.rllib.utils.schedules.scheduler import Scheduler
from torch import Tensor

from rllib_agg.aggregation.advantages import RawAdvantageEstimation, take_raw_advantages
from rllib_agg.aggregation.agents import RETURN
from rllib_agg.aggregation.aggregator import joint_step_scale
from rllib_agg.aggregation.finite_step import SKIPPED_UPDATES, FiniteSteps
from rllib_agg.server_loop.metrics import log_trained


@dataclass(frozen=True, slots=True)
class GradientMessage:
    """What an env runner sends.

    :param gradients: One per parameter, in the module's order; ``None`` for a parameter without gradient.
    :param seq_no: Number of updates of the weights that it was computed with.
    :param num_samples: Environment steps in the fragment; 0 if the data were corrupt and there is no gradient.
    :param loss: Mean loss of the fragment.
    :param episode_return: Mean raw return of the episodes that ended in the fragment, NaN if none did.
    """

    gradients: list[NDArray[np.float32] | None]
    seq_no: int
    num_samples: int
    loss: float
    episode_return: float

    def vector(self) -> Tensor:
        """The gradients in a row ``[P]``."""
        given = [gradient.ravel() for gradient in self.gradients if gradient is not None]
        return torch.from_numpy(np.concatenate(given)) if given else torch.empty(0)


class A3CTorchLearner(FiniteSteps):
    """Computes gradients on env runners, and applies them in the server."""

    def build(self) -> None:
        """Put the n-step returns into the connector pipeline."""
        super().build()
        coefficient = self.config.entropy_coeff
        self.entropy_scheduler = Scheduler(fixed_value_or_schedule=coefficient, framework="torch", device=self.device)
        pipeline = self.connector_pipeline
        pipeline.prepend(AddOneTsToEpisodesAndTruncate())
        pipeline.append(RawAdvantageEstimation(gamma=self.config.gamma, lambda_=self.config.lambda_))

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        """Follow the schedule of the entropy coefficient."""
        super().before_gradient_based_update(timesteps=timesteps)
        coefficient = self.entropy_scheduler.update(timestep=timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))
        self.metrics.log_value((DEFAULT_MODULE_ID, LEARNER_RESULTS_CURR_ENTROPY_COEFF_KEY), coefficient, window=1)

    def compute_loss_for_module(
        self, *, module_id: str, config: Any, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """Policy gradient, squared error of the value function and entropy bonus."""
        module = self.module[module_id].unwrapped()
        valid = batch[Columns.LOSS_MASK]
        distribution = module.get_train_action_dist_cls().from_logits(fwd_out[Columns.ACTION_DIST_INPUTS])
        values = module.compute_values(batch, embeddings=fwd_out.get(Columns.EMBEDDINGS))
        advantages = batch[Postprocessing.ADVANTAGES]
        policy_loss = -(distribution.logp(batch[Columns.ACTIONS]) * advantages)[valid].mean()
        value_loss = (values - batch[Postprocessing.VALUE_TARGETS])[valid].square().mean()
        entropy = distribution.entropy()[valid].mean()
        reported = {POLICY_LOSS_KEY: policy_loss, VF_LOSS_KEY: value_loss, ENTROPY_KEY: entropy}
        self.metrics.log_dict(reported, key=module_id, window=1)
        loss: Tensor = policy_loss + config.vf_loss_coeff * value_loss - self.entropy_scheduler.get_current_value() * entropy
        return loss

    def take_gradient(self, episodes: list[Any], *, seq_no: int, timesteps: dict[str, Any]) -> GradientMessage:
        """Compute the gradient of a fragment; the weights, of number ``seq_no``, stay as they are.

        :param episodes: Of the one module; extended by a step each, in place.
        """
        self.before_gradient_based_update(timesteps=timesteps)
        nothing = GradientMessage([], seq_no, 0, float("nan"), float("nan"))
        if not episodes:  # a callback has removed them
            return nothing
        batch = self.make_batch(episodes)
        data = batch[DEFAULT_MODULE_ID]
        data[Postprocessing.ADVANTAGES] = take_raw_advantages(data, "A3C")
        returns, num_samples = data.pop(RETURN)[data[Columns.LOSS_MASK]], int(data[Columns.LOSS_MASK].sum())
        if num_samples == 0:
            return nothing
        losses = self.compute_losses(fwd_out=self.module.forward_train(batch), batch=batch)
        gradients = self.compute_gradients(losses)
        arrays = [None if gradient is None else gradient.cpu().numpy() for gradient in gradients.values()]
        loss = losses[DEFAULT_MODULE_ID].item()
        self.metrics.log_value((DEFAULT_MODULE_ID, self.TOTAL_LOSS_KEY), loss, window=1)
        return GradientMessage(arrays, seq_no, num_samples, loss, returns.nanmean().item())

    def step_scale(self, message: GradientMessage) -> Tensor | None:
        """What the optimiser multiplies each number of a message's vector by ``[P]``; ``None``: all alike."""
        named = zip(self.parameters_by_ref.values(), message.gradients, strict=True)
        parameters = [parameter for parameter, gradient in named if gradient is not None]
        return joint_step_scale([optimizer for _, optimizer in self.optimizers()], parameters)

    def apply_step(self, step: Tensor, message: GradientMessage, *, timesteps: dict[str, Any]) -> None:
        """Step with what became of an env runner's gradient.

        :param step: ``[P]``, in the order of the message's vector.
        :param message: The env runner's, for the shapes.
        """
        self.before_gradient_based_update(timesteps=timesteps)
        parts = iter(torch.split(step, [array.size for array in message.gradients if array is not None]))
        gradients = {
            ref: None if array is None else next(parts).view(array.shape)
            for ref, array in zip(self.parameters_by_ref, message.gradients, strict=True)
        }
        self.unfit_modules = self.modules_with_corrupt_gradient(gradients)
        self.apply_gradients(self.postprocess_gradients(gradients))
        self.weights_seq_no += 1
        log_trained(self.metrics.log_value, message.num_samples)
        skipped = self.num_skipped.pop(DEFAULT_MODULE_ID, 0)
        self.metrics.log_value((DEFAULT_MODULE_ID, "agg", SKIPPED_UPDATES), skipped, reduce="lifetime_sum")
        self.after_gradient_based_update(timesteps=timesteps)

    @classmethod
    def rl_module_required_apis(cls) -> list[type]:
        """The module must have a value function."""
        return [ValueFunctionAPI]
