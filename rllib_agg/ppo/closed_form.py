r"""PPO's gradient without a graph, for RLlib's default module of linear layers. Axes: A agents, B samples of a minibatch.

A sample's loss reaches the parameters only through its value V, its log-probability, its entropy and the divergence D of the
policy from what it was: :math:`-\min(\rho A, \mathrm{clip}(\rho) A) + c_V \min((V - R)^2, v) - c_H H + c_D D`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from ray.rllib.algorithms.ppo.torch.default_ppo_torch_rl_module import DefaultPPOTorchRLModule
from ray.rllib.core.columns import Columns
from ray.rllib.core.distribution.torch.torch_distribution import TorchCategorical, TorchDiagGaussian
from ray.rllib.core.models.torch.encoder import TorchActorCriticEncoder, TorchMLPEncoder
from ray.rllib.core.models.torch.heads import TorchMLPHead
from ray.rllib.evaluation.postprocessing import Postprocessing
from torch import Tensor, nn

from rl_agg.closed_form.actor_critic import ActorCritic
from rl_agg.closed_form.distributions import Categorical, Distribution, GaussianOfOutputs
from rl_agg.closed_form.factors import FactoredGradients, slots_of
from rl_agg.closed_form.layers import LinearLayer
from rl_agg.closed_form.memory import FlatParameters
from rl_agg.closed_form.modules import NoClosedFormError, check_hooks, check_methods, check_parameters, linear_layers


class SampleTerms(NamedTuple):
    """What each sample's loss consists of ``[B]``."""

    surrogate: Tensor
    value_errors: Tensor
    clipped_errors: Tensor
    entropy: Tensor
    divergence: Tensor
    values: Tensor


class Coefficients(NamedTuple):
    """What the terms of the loss are multiplied by, and where they are clipped."""

    clip: float
    value: float
    value_clip: float
    entropy: float
    divergence: float | None


class ClosedFormPPO:
    """The gradient of one module.

    :param module: RLlib's, not wrapped.
    :raises NoClosedFormError: if there is no closed form of it, naming the reason.
    """

    def __init__(self, module: Any) -> None:
        policy, value, trained, self._signature = _parts(module)
        self._module = module
        self.flat = FlatParameters(trained)
        self._distribution = _distribution(module)
        try:
            self._networks = ActorCritic(policy, value, self.flat)
        except ValueError as error:
            raise NoClosedFormError(str(error)) from error
        self._gradients: tuple[Tensor, Tensor, Tensor | None, Tensor | None] | None = None

    def fits(self, module: Any) -> bool:
        """Whether this is the module that this was made for, as it was then; its parameters' values may be others.

        :raises NoClosedFormError: if there is no closed form of it.
        """
        return module is self._module and _parts(module)[-1] == self._signature

    def evaluate(self, batch: dict[str, Any], own: Coefficients) -> tuple[Tensor, SampleTerms]:
        """Losses of the samples ``[B]``, and what they consist of.

        :param batch: RLlib's, with observations ``[B, F]``.
        :param own: Of the loss.
        """
        actions = batch[Columns.ACTIONS]
        outputs, values = self._networks.forward(batch[Columns.OBS])
        values = values.flatten()
        log_prob, entropy = self._distribution.evaluate(outputs, actions.unsqueeze(-1) if actions.ndim == 1 else actions)
        ratio = torch.exp(log_prob - batch[Columns.ACTION_LOGP])
        advantages = batch[Postprocessing.ADVANTAGES]
        plain, clipped = advantages * ratio, advantages * ratio.clamp(1 - own.clip, 1 + own.clip)
        surrogate = torch.minimum(plain, clipped)
        errors = values - batch[Postprocessing.VALUE_TARGETS]
        squares = errors.square()
        clipped_squares = squares.clamp(0, own.value_clip)
        losses = own.value * clipped_squares - surrogate - own.entropy * entropy
        divergence = torch.zeros_like(losses)
        if own.divergence is not None:
            divergence = self._distribution.divergence(batch[Columns.ACTION_DIST_INPUTS])
            losses += own.divergence * divergence
        self._gradients = (
            errors * (squares <= own.value_clip) * (2.0 * own.value),
            -plain * (plain <= clipped),
            torch.full_like(entropy, -own.entropy) if own.entropy else None,
            None if own.divergence is None else torch.full_like(entropy, own.divergence),
        )
        return losses, SampleTerms(surrogate, squares, clipped_squares, entropy, divergence, values.clone())

    def differentiate(self, factors: Tensor | None) -> None:
        """Write the gradient of the samples' losses to memory, each multiplied by a factor.

        :param factors: ``[B]``.
        """
        self._networks.backward(*self._of_layers(factors))
        self._distribution.write_gradients()

    def by_agent(self, agents: Tensor, num_agents: int) -> Tensor:
        """The gradients of the sums of each agent's losses ``[A, P]``, valid until the next call.

        :param agents: Whose sample it is ``[B]``; A: nobody's.
        :param num_agents: A.
        """
        self._networks.differentiate(*self._of_layers(None))
        factors = self._networks.factors(num_agents + 1, *slots_of(agents, num_agents + 1))
        matrix = FactoredGradients(factors, len(self.flat.values), self.flat.reserve).matrix()
        return matrix[:num_agents]

    def _of_layers(self, factors: Tensor | None) -> tuple[Tensor, Tensor]:
        assert self._gradients is not None
        values, *others = [own if own is None or factors is None else own * factors for own in self._gradients]
        assert values is not None
        return self._distribution.differentiate(*others), values[:, None]  # type: ignore[arg-type]


def _parts(module: Any) -> tuple[list[LinearLayer], list[LinearLayer], list[nn.Parameter], list[Any]]:
    """Layers of the policy and of the value, parameters that are trained, and what distinguishes the module from others."""
    if type(module) is not DefaultPPOTorchRLModule:
        raise NoClosedFormError(f"module {type(module).__name__}")
    check_methods(module)
    check_hooks(module)
    encoder = module.encoder
    if type(encoder) is not TorchActorCriticEncoder:
        raise NoClosedFormError(f"encoder {type(encoder).__name__}")
    encoders = [encoder.encoder] * 2 if hasattr(encoder, "encoder") else [encoder.actor_encoder, encoder.critic_encoder]
    for part in (*encoders, module.pi, module.vf):
        if type(part) not in (TorchMLPEncoder, TorchMLPHead):
            raise NoClosedFormError(f"a {type(part).__name__} in the module")
    if module.vf.clip_log_std:
        raise NoClosedFormError("a value that is clipped")
    policy, value = (
        linear_layers(body.net.mlp, head.net.mlp) for body, head in zip(encoders, (module.pi, module.vf), strict=True)
    )
    trained = check_parameters(module, policy + value)
    marks = [(id(layer.weight), id(layer.bias), layer.activation) for layer in policy + value]
    frozen = [parameter.data_ptr() for parameter in module.parameters() if not parameter.requires_grad]
    kinds = (*_kinds(module), module.pi.clip_log_std, float(module.pi.log_std_clip_param_const))
    return policy, value, trained, [marks, list(map(id, trained)), frozen, kinds, trained[0].dtype, trained[0].device]


def _kinds(module: Any) -> tuple[type, type]:
    """Of distributions."""
    return module.get_train_action_dist_cls(), module.get_exploration_action_dist_cls()


def _distribution(module: Any) -> Distribution:
    kinds = set(_kinds(module))
    if kinds == {TorchCategorical} and not module.pi.clip_log_std:
        return Categorical([module.pi.net.mlp[-1].out_features])
    if kinds == {TorchDiagGaussian}:
        return GaussianOfOutputs(float(module.pi.log_std_clip_param_const) if module.pi.clip_log_std else None)
    raise NoClosedFormError(f"distribution {', '.join(sorted(kind.__name__ for kind in kinds))}")
