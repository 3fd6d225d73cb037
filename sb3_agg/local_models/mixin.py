"""What an algorithm needs besides so that each agent may have parameters of its own. Axis A: agents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch

from rl_agg import COMBINERS, RULES, Signals
from rl_agg.payloads import ActorSum, FedAvg, LocalScheme
from rl_agg.scheme import Aggregation
from sb3_agg.hooks.local import LocalUpdate
from sb3_agg.hooks.origin import is_sb3s
from sb3_agg.local_models.acting import LocalActing
from sb3_agg.local_models.models import LocalModels, named
from sb3_agg.local_models.stacked_policy import Named
from sb3_agg.rollouts.minibatches import Minibatches

ONLY = {"minibatches": "stratified", "communication": "every", "attack": None, "use_sde": False}
"""Settings that schemes of local models work with."""

COPIES = "local_models"
"""Where ``get_parameters()["policy.optimizer"]`` has the agents' copies: stock algorithms read past it there."""


class LocalModelsMixin:
    """The part of :class:`~sb3_agg.mixin.AggregationMixin` that concerns schemes of local models.

    A file has the copies beside the state of the policy's optimiser. Who writes to the policy's parameters, by
    ``set_parameters()`` without copies or past it, lets all agents start from them: at the next rollout or update.
    """

    takes_local_models: ClassVar[bool] = True

    aggregation: Any
    n_envs: int
    policy: Any
    max_grad_norm: float
    logger: Any

    def _check_scheme(self, scheme: LocalScheme) -> None:
        if not self.takes_local_models:
            choices = ", ".join([*RULES, *COMBINERS, "torchjd:NAME"])
            raise ValueError(
                f"{type(self).__name__} does not take aggregation={self.aggregation!r}; choose from {choices}, or use AggPPO, "
                "AggA2C or AggMaskablePPO"
            )
        for name, choice in ONLY.items():
            value = getattr(self, name, choice)
            if value != choice:
                raise ValueError(f"aggregation={self.aggregation!r} works with {name}={choice!r} only, got {value!r}")
        num_epochs = getattr(self, "n_epochs", None)  # A2C has one, whatever is asked for
        if num_epochs is not None and isinstance(scheme, FedAvg) and max(scheme.local_epochs or [0]) > num_epochs:
            raise ValueError(f"local_epochs must be at most n_epochs={num_epochs}, got {scheme.local_epochs!r}")

    def _set_up_local_models(self, aggregation: Aggregation) -> None:
        self._scheme = aggregation if isinstance(aggregation, LocalScheme) else None
        self._acting: LocalActing | None = None
        self._local_models: LocalModels | None = None
        if self._scheme is not None:
            forward = type(self.policy).forward
            if not is_sb3s(forward):
                raise ValueError(
                    f"aggregation={self.aggregation!r} has agents act by networks of their own, past {forward.__qualname__}: "
                    "it needs a policy whose forward() is SB3's; choose a rule or a combiner"
                )
            self._local_models = LocalModels(self._scheme, self.policy, self.n_envs, self._initial(self._scheme))

    def _initial(self, scheme: LocalScheme) -> list[Named] | None:
        if not isinstance(scheme, ActorSum) or scheme.same_init:
            return None
        model: Any = self
        spaces = (model.observation_space, model.action_space)
        others = [model.policy_class(*spaces, model.lr_schedule, **model.policy_kwargs) for _ in range(self.n_envs - 1)]
        return [named(policy) for policy in (self.policy, *(other.to(model.device) for other in others))]

    @contextmanager
    def _own_acting(self) -> Iterator[None]:
        """Let each agent act by its own parameters, if they are not the policy's."""
        models = self._local_models
        if models is not None:
            models.follow_policy()
            if not models.fits_policy:
                models = self._local_models = self._without_frozen(models)
        if models is None or not models.differ:
            yield
            return
        self._acting = LocalActing(self.policy, models.stacked())
        try:
            with self._acting.hooked():
                yield
        finally:
            self._acting = None

    def _without_frozen(self, models: LocalModels) -> LocalModels:
        """Begin again where parameters have been frozen or thawed since, if nobody has trained yet."""
        assert self._scheme is not None
        if models.differ and models.trained:
            raise ValueError(
                f"parameters were frozen or thawed while agents have others of their own (aggregation={self.aggregation!r}); "
                "do it before learn(), or after a merge"
            )
        return LocalModels(self._scheme, self.policy, self.n_envs, models.each() if models.differ else None)

    def _make_local_update(self, models: LocalModels, signals: Signals, minibatches: Minibatches) -> LocalUpdate:
        assert self._scheme is not None
        return LocalUpdate(self._scheme, models, self.policy, self.max_grad_norm, signals, minibatches)

    def _record_local_models(self, models: LocalModels) -> None:
        self.logger.record("agg/divergence", models.divergence)
        if hasattr(self.policy, "log_std"):  # as SB3 does, but it has done so before the policy got the average
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As SB3's, with the agents' copies under ``["policy.optimizer"]["local_models"]``."""
        parameters: dict[str, dict[str, Any]] = super().get_parameters()  # type: ignore[misc]
        if self._local_models is not None:
            parameters["policy.optimizer"][COPIES] = self._local_models.state_dict()
        return parameters

    def set_parameters(
        self, load_path_or_dict: dict[str, Any], exact_match: bool = True, device: torch.device | str = "auto"
    ) -> None:
        """As SB3's. Where no copies are given, all agents start from the policy's parameters."""
        super().set_parameters(load_path_or_dict, exact_match, device)  # type: ignore[misc]
        if self._local_models is not None:
            copies = load_path_or_dict.get("policy.optimizer", {}).get(COPIES)
            if copies is None:
                self._local_models.start_from_policy()
            else:
                self._local_models.load_state_dict(copies)
