"""What an algorithm needs besides so that each agent may have parameters of its own. Axis A: agents."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from rl_agg import Exchange, Payload, Scheme
from rl_agg.payloads import GradientsWithOwn
from sb3_agg.closed_form.acting import ClosedFormActing
from sb3_agg.closed_form.evaluation import Evaluation
from sb3_agg.closed_form.mixin import ClosedFormMixin
from sb3_agg.local_models.acting import ExploringActing, LocalActing, LoopedActing
from sb3_agg.local_models.looped_policy import needs_loop
from sb3_agg.local_models.models import LocalModels, named
from sb3_agg.local_models.stacked_policy import Named
from sb3_agg.logging import LoggingMixin

COPIES = "local_models"
"""Where ``get_parameters()["policy.optimizer"]`` has the agents' copies: stock algorithms read past it there."""


class LocalModelsMixin(ClosedFormMixin, LoggingMixin):
    """The part of :class:`~sb3_agg.mixin.AggregationMixin` that concerns agents with parameters of their own.

    A file has the copies next to the state of the policy's optimiser. If something else changes the policy's parameters,
    the agents' change by as much before the next rollout or update. ``set_parameters()`` without copies starts all from it.
    """

    aggregation: Any
    payload: Any
    policy: Any
    max_grad_norm: float
    minibatches: str
    use_sde: bool
    exchange: Exchange

    @property
    def _scheme_as_given(self) -> str:
        raise NotImplementedError

    def _check_local_models(self, scheme: Scheme) -> None:
        if self.minibatches != "stratified":
            raise ValueError(
                f"agents with parameters of their own ({self._scheme_as_given}) work with minibatches='stratified' only, got "
                f"{self.minibatches!r}"
            )
        num_epochs = getattr(self, "n_epochs", None)  # A2C has one, whatever is asked for
        epochs = getattr(scheme.payload, "local_epochs", None)
        if num_epochs is not None and max(epochs or [0]) > num_epochs:
            raise ValueError(f"local_epochs must be at most n_epochs={num_epochs}, got {epochs!r}")

    def _set_up_local_models(self) -> None:
        payload = self.exchange.scheme.payload
        self._acting: LocalActing | ClosedFormActing | None = None
        self._local_models = self._copies_of_policy(self._initial(payload)) if payload.local else None

    def _copies_of_policy(self, initial: list[Named] | None) -> LocalModels:
        if needs_loop(self.policy):
            self._warn_once(
                f"{type(self.policy).__name__} is recurrent, compiled, or acts by gSDE or a method of its own: each of "
                f"{self.n_envs} agents with parameters of its own is evaluated by itself, slower by about that factor",
            )
        return LocalModels(self.exchange.scheme.payload, self.policy, self.n_envs, initial)

    def _initial(self, payload: Payload) -> list[Named] | None:
        if not isinstance(payload, GradientsWithOwn) or payload.same_init:
            return None
        model: Any = self
        spaces = (model.observation_space, model.action_space)
        own = {**model.policy_kwargs, **({"use_sde": True} if self.use_sde else {})}
        others = [model.policy_class(*spaces, model.lr_schedule, **own) for _ in range(self.n_envs - 1)]
        return [named(policy) for policy in (self.policy, *(other.to(model.device) for other in others))]

    @contextmanager
    def _own_acting(self) -> Iterator[None]:
        """Let each agent act by its own parameters, if they are not the policy's, and in closed form if there is one."""
        models = self._follow_policy()
        if models is not None and not models.differ:
            models = None
        form = self._find_closed_form(steps=False)
        if form is not None and models is not None:
            evaluation = form.stacked(models.copies, models.optimizer.gradients)
            self._acting = ClosedFormActing(self.policy, lambda: evaluation)
        elif form is not None:
            self._acting = ClosedFormActing(self.policy, self._find_evaluation)
        elif models is not None:
            kind: type[LocalActing] = LoopedActing if needs_loop(self.policy) else LocalActing
            if self.use_sde:
                kind = ExploringActing
            self._acting = kind(self.policy, models.stacked_policy(), models.stacked())
        else:
            yield
            return
        try:
            with self._acting.hooked():
                yield
        finally:
            self._acting = None

    def _find_evaluation(self) -> Evaluation | None:
        form = self._find_closed_form(steps=False)
        return None if form is None else form.evaluation

    def _follow_policy(self) -> LocalModels | None:
        """The agents' parameters, after what has been done to the policy since."""
        models = self._local_models
        if models is not None:
            models.follow_policy()
            if not models.fit(self.policy):
                models = self._local_models = self._begin_again(models)
        return models

    def _begin_again(self, models: LocalModels) -> LocalModels:
        """Copy a policy whose parameters have been frozen, thawed or replaced since, if nobody has trained yet."""
        if models.differ and models.trained:
            raise ValueError(
                "parameters were frozen, thawed or replaced by others while agents have some of their own "
                f"({self._scheme_as_given}); do it before learn(), or after a merge"
            )
        return self._copies_of_policy(models.each() if models.differ else None)

    def __getstate__(self) -> dict[str, Any]:
        """Copies as their state: pickled, views of one tensor would be tensors of their own. The policy as it is elsewhere, if
        a callback copies the model while agents act."""
        models, acting = vars(self).get("_local_models"), vars(self).get("_acting")
        state = {**super().__getstate__(), "_local_models": None if models is None else models.state_dict(), "_acting": None}
        if acting is not None:
            policy = state["policy"] = copy.copy(self.policy)
            for name in [name for name, value in vars(policy).items() if getattr(value, "__self__", None) is acting]:
                del vars(policy)[name]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        copies = state["_local_models"]
        if copies is not None:
            self._local_models = LocalModels(self.exchange.scheme.payload, self.policy, len(copies["copies"]))
            self._local_models.load_state_dict(copies)

    def _record_local_models(self, models: LocalModels) -> None:
        self.logger.record("agg/divergence", models.divergence)
        if hasattr(self.policy, "log_std"):  # as SB3 does, but it has done so before the policy got the average
            self.logger.record("train/std", torch.exp(self.policy.log_std).mean().item())

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As SB3's, with the agents' copies under ``["policy.optimizer"]["local_models"]``, if it is saved."""
        parameters: dict[str, dict[str, Any]] = super().get_parameters()  # type: ignore[misc]
        if self._local_models is not None and "policy.optimizer" in parameters:
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
