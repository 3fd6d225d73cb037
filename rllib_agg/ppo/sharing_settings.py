"""The settings of policies that merge their parameters, and what of them is merged. Axes: A policies, K tensors of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from ray.rllib.core.rl_module.apis import SelfSupervisedLossAPI
from torch import nn

from rl_agg import Scheme
from rl_agg.codecs import Compression
from rl_agg.payloads import Parameters
from rl_agg.per_agent_gradients import trained_parameters
from rl_agg.scheme import Aggregation
from rl_agg.validation import check_count, check_flag
from rllib_agg.aggregation._compat import UNSET
from rllib_agg.aggregation.config import AggConfigMixin
from rllib_agg.aggregation.parameter_sharing import SharedTensors, make_sharing

HEAD = ("pi", "vf")
"""Of RLlib's default module: what makes actions and values of what its ``encoder`` found."""

SETTINGS: dict[str, Any] = {
    "parameter_sharing": "none",
    "parameter_sharing_kwargs": None,
    "sharing_interval": 1,
    "shared_layers": None,
    "sharing_communication": "every",
    "sharing_communication_kwargs": None,
    "sharing_compression": "identity",
    "sharing_compression_kwargs": None,
    "sharing_broadcast_compression": "identity",
    "sharing_broadcast_compression_kwargs": None,
    "sharing_budget_bytes_per_update": None,
    "same_init": True,
    "moments": "keep",
}


class SharingConfigMixin(AggConfigMixin):
    """The settings of policies that merge their parameters."""

    whole_algorithm = AggConfigMixin.whole_algorithm | SETTINGS.keys()
    parameter_sharing: Any
    same_init: bool
    sharing_interval: int

    def __init__(self, algo_class: type | None = None) -> None:
        super().__init__(algo_class=algo_class)
        self.take(**SETTINGS)

    def training(
        self,
        *,
        parameter_sharing: Aggregation = UNSET,
        parameter_sharing_kwargs: Mapping[str, Any] | None = UNSET,
        sharing_interval: int = UNSET,
        shared_layers: Sequence[str] | None = UNSET,
        sharing_communication: str = UNSET,
        sharing_communication_kwargs: Mapping[str, Any] | None = UNSET,
        sharing_compression: Compression = UNSET,
        sharing_compression_kwargs: Mapping[str, Any] | None = UNSET,
        sharing_broadcast_compression: Compression = UNSET,
        sharing_broadcast_compression_kwargs: Mapping[str, Any] | None = UNSET,
        sharing_budget_bytes_per_update: float | None = UNSET,
        same_init: bool = UNSET,
        moments: str = UNSET,
        **kwargs: Any,
    ) -> Self:
        """Set up the training, what policies share included.

        :param parameter_sharing: How the policies of a multi-agent environment merge their parameters: ``none``, ``a_pps``,
            ``rs_pps`` or ``pp_pps``, see :mod:`rl_agg.local_schemes`; or any rule or combiner, see
            :data:`~rl_agg.scheme.Aggregation`. A policy's return is the mean of its agents' last known ones.
        :param parameter_sharing_kwargs: Settings of the rule or combiner.
        :param sharing_interval: Updates (rollouts with all their epochs, one in each ``train()``) between two merges.
        :param shared_layers: What is merged, by names of modules in the RLModule: of RLlib's default one ``encoder``, ``pi``
            and ``vf``, or their parts; ``None``: all, or with ``pp_pps`` the head, which is ``pi`` and ``vf``.
        :param sharing_communication: Which policies send their parameters at a merge: a gate, see :data:`rl_agg.GATES`.
        :param sharing_communication_kwargs: Its settings.
        :param sharing_compression: How parameters are encoded: see :data:`~rl_agg.codecs.Compression`.
        :param sharing_compression_kwargs: Its settings, and ``error_feedback``.
        :param sharing_broadcast_compression: The codec of the merged parameters that policies get back.
        :param sharing_broadcast_compression_kwargs: Its settings.
        :param sharing_budget_bytes_per_update: What all policies together may send in an update, on average.
        :param same_init: Let all policies begin with the parameters of the first, by name, where they share: networks that
            differ in how their units are ordered have no meaningful average. Weights that are loaded stay as they are.
        :param moments: What becomes of the optimisers' moments of merged parameters: ``keep``, ``merge`` or ``reset``.
        :param kwargs: Those of :meth:`AggConfigMixin.training` and the algorithm's own.
        """
        super().training(**kwargs)
        return self.take_arguments(locals())

    @property
    def sharing(self) -> Scheme | None:
        """What policies exchange; ``None``: nothing. ``ValueError`` if a setting is wrong, or two do not go together."""
        return make_sharing(self, head=HEAD, prefix="sharing_")

    def validate(self) -> None:
        """Check what policies share."""
        super().validate()
        check_flag("same_init", self.same_init)
        check_count("sharing_interval", self.sharing_interval, least=1)
        payload = self.make_scheme().payload
        if self.sharing is not None and isinstance(payload, Parameters):
            raise ValueError(
                f"{self._shares} merges policies, of which all learners have the same parameters, but aggregation="
                f"{self.aggregation!r} with payload={self.payload!r} gives each learner its own; leave one out"
            )

    def check_modules(self, spec: Any) -> None:
        """Check that there are policies that can be merged."""
        super().check_modules(spec)
        if self.sharing is not None and self.num_learners:  # where there are none, the algorithm's own learner checks
            self.shared_tensors(spec.build())

    def shared_tensors(self, modules: Any) -> dict[str, SharedTensors]:
        """What policies merge, by their names in order.

        :param modules: A multi-module. Modules with a loss of their own take no part.
        :raises ValueError: if there are not several policies that are trained, with layers of equal shapes.
        """
        scheme = self.sharing
        assert scheme is not None
        policies = policies_of(modules)
        if len(policies) < 2:
            raise ValueError(
                f"{self._shares} merges policies, but there is only {', '.join(map(repr, policies))}; give each agent one "
                "of its own by .multi_agent(policies=..., policy_mapping_fn=...)"
            )
        if untrained := [module_id for module_id, module in policies.items() if not self._trains(module_id, module)]:
            raise ValueError(
                f"{self._shares} merges all policies, but {', '.join(map(repr, untrained))} would change without training "
                f"(policies_to_train={self.policies_to_train!r}); train all policies, or leave parameter_sharing='none'"
            )
        tensors = {module_id: SharedTensors.of(module, scheme.payload) for module_id, module in policies.items()}
        (first, own), *others = tensors.items()
        for module_id, other in others:
            shapes, expected = ({name: tuple(value.shape) for name, value in each.named.items()} for each in (other, own))
            for name in {**expected, **shapes}:
                if shapes.get(name) != expected.get(name):
                    raise ValueError(
                        f"{self._shares} merges parameters of equal shapes, but {name} is {expected.get(name, 'missing')} in "
                        f"policy {first!r} and {shapes.get(name, 'missing')} in {module_id!r}; give them the same spaces and "
                        "model_config, or choose shared_layers that are alike"
                    )
        scheme.check(len(policies))
        return tensors

    def _trains(self, module_id: str, module: Any) -> bool:
        chosen: Any = self.policies_to_train
        if not isinstance(module, nn.Module) or not trained_parameters(module):
            return False
        return chosen is None or bool(chosen(module_id, None) if callable(chosen) else module_id in chosen)

    @property
    def _shares(self) -> str:
        return f"parameter_sharing={self.parameter_sharing!r}"


def policies_of(modules: Any) -> dict[str, Any]:
    """A multi-module's modules without a loss of their own, by name in order, and not wrapped."""
    own = {module_id: modules[module_id].unwrapped() for module_id in sorted(modules.keys())}
    return {module_id: module for module_id, module in own.items() if not isinstance(module, SelfSupervisedLossAPI)}
