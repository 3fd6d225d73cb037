"""What every algorithm whose sub-environments are agents has, on-policy or off-policy. Axis A: agents."""

from __future__ import annotations

import inspect
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv, VecMonitor, is_vecenv_wrapped

from rl_agg import Exchange, Ledger, Payload, Schedule, Scheme
from rl_agg.attacks import Attack
from rl_agg.codecs import Compression
from rl_agg.local_schemes import LocalScheme
from rl_agg.schedules import OnArrival
from rl_agg.scheme import Aggregation, make_scheme
from rl_agg.validation import check_choice, unknown_choice
from sb3_agg.files import FilesMixin
from sb3_agg.inheritance import signature_of
from sb3_agg.logging import LoggingMixin

MINIBATCHES = ("stratified", "stock")


class AgentsMixin(FilesMixin, LoggingMixin):
    """The settings of the five axes, which name the same for all algorithms; see :class:`~sb3_agg.mixin.AggregationMixin`."""

    agent_returns: NDArray[np.float64]
    """Last known raw episodic return of each agent ``[A]``, NaN where it has none yet."""
    seed: int | None
    provides: ClassVar[frozenset[str]] = frozenset()
    """Signals that agents report where a rule reads them, beyond those of every host."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.__signature__ = signature_of(cls)  # type: ignore[attr-defined]

    def __init__(
        self,
        policy: Any,
        env: Any,
        *args: Any,
        aggregation: Aggregation | LocalScheme = "mean",
        aggregation_kwargs: dict[str, Any] | None = None,
        communication: str = "every",
        communication_kwargs: dict[str, Any] | None = None,
        compression: Compression = "identity",
        compression_kwargs: dict[str, Any] | None = None,
        payload: str | Payload = "gradients",
        interval: int | str | Schedule = 1,
        attack: Attack | dict[str, Any] | None = None,
        minibatches: str = "stratified",
        **kwargs: Any,
    ) -> None:
        self.aggregation = aggregation
        self.aggregation_kwargs = aggregation_kwargs
        self.communication = communication
        self.communication_kwargs = communication_kwargs
        self.compression = compression
        self.compression_kwargs = compression_kwargs
        self.payload = payload
        self.interval = interval
        self.attack = attack
        self.minibatches = minibatches
        set_up = kwargs.pop("_init_setup_model", True)
        super().__init__(policy, env, *args, _init_setup_model=False, **kwargs)  # type: ignore[call-arg]
        if set_up:
            self._setup_model()  # type: ignore[attr-defined]
            if not hasattr(self, "_warned"):
                raise TypeError(
                    f"{type(self).__name__}._setup_model() went round the aggregation's; call super()._setup_model()"
                )
            self._check_learning()

    def _check_learning(self) -> None:
        """Refuse settings that cannot learn; called when learning starts, as a loaded model may only act."""
        self._check_built()
        if self.n_envs == 1:
            self._warn_once(
                "there is one environment, so one agent, and aggregation has no effect; give it several: "
                "make_vec_env(..., n_envs=8)",
            )

    def _check_built(self) -> None:
        """Refuse settings that were changed since they were read; called in each update, as callbacks may set them."""
        for name, built in self._built.items():
            now = getattr(self, name)
            if now is not built and not _same(now, built):
                raise ValueError(
                    f"{name}={now!r} was set after the model had been built with {built!r}, and has no effect; save() the "
                    f"model, and give load() {name}={now!r}"
                )

    @classmethod
    def load(cls, *args: Any, **kwargs: Any) -> Any:
        """As SB3's, but arguments that no constructor takes are refused, where SB3 would keep and never read them."""
        load = super().load  # type: ignore[misc]
        readers = [load, *(vars(base)["__init__"] for base in cls.__mro__ if "__init__" in vars(base))]
        known = {name for reader in readers for name in inspect.signature(reader).parameters}
        for name in kwargs:
            if name not in known:
                raise unknown_choice(f"argument of {cls.__name__}.load", name, known - {"self", "args", "kwargs"})
        try:
            return load(*args, **kwargs)
        except ValueError as error:
            kept = [f"{name}_kwargs" for name in kwargs if f"{name}_kwargs" in known - kwargs.keys()]
            if not kept:
                raise
            raise ValueError(f"{error} (load() was given no {', '.join(kept)}, so those of the file apply)") from error

    def _make_scheme(self, **more: Any) -> Scheme:
        """The scheme of the settings, and of more that :func:`~rl_agg.scheme.make_scheme` takes."""
        built = {name: getattr(self, name) for name in ("communication", *self._settings(), *more)}
        self._built = {name: dict(value) if isinstance(value, dict) else value for name, value in built.items()}
        scheme = make_scheme(
            self.aggregation,
            self.aggregation_kwargs,
            communication=self.communication,
            communication_kwargs=self.communication_kwargs,
            compression=self.compression,
            compression_kwargs=self.compression_kwargs,
            payload=self.payload,
            interval=self.interval,
            **more,
        )
        if scheme.payload.content not in ("gradients", "parameters"):
            raise ValueError(
                f"payload={self.payload!r} exchanges {scheme.payload.content}, which {type(self).__name__} does not have; "
                "choose 'gradients' or 'parameters'"
            )
        if isinstance(scheme.schedule, OnArrival):
            raise ValueError(f"interval={self.interval!r} is for asynchronous algorithms; {type(self).__name__} is not one")
        return scheme

    def _make_exchange(self, scheme: Scheme, ledger: Ledger | None = None) -> Exchange:
        """An exchange of all agents.

        :param ledger: Counts what is sent; ``None``: one of its own, with a loaded model's counts.
        """
        exchange = Exchange(scheme, self.n_envs, attack=self.attack, ledger=ledger, seed=self.seed, provides=self.provides)
        counts = vars(self).get("ledger") if ledger is None else None
        if counts is not None:
            exchange.ledger.load_state_dict(counts if isinstance(counts, dict) else counts.state_dict())
        return exchange

    def _check_choices(self, **choices: tuple[str, ...]) -> None:
        for name, known in choices.items():
            check_choice(name, getattr(self, name), known)

    @property
    def _scheme_as_given(self) -> str:
        return f"aggregation={self.aggregation!r}, payload={self.payload!r}"

    def _fit_to_agents(self, **kept: bool) -> None:
        """Give arrays of one number for each agent, of a loaded model maybe, their length; NaN where nothing is known.

        :param kept: Whether what is known stays, by the attribute's name.
        """
        for name, keeps in kept.items():
            known = getattr(self, name, np.empty(0)) if keeps else np.empty(0)
            setattr(self, name, np.concatenate([known, np.full(self.n_envs, np.nan)])[: self.n_envs])

    def set_env(self, env: Any, force_reset: bool = True) -> None:
        """As SB3's. Returns of the old environments say nothing about the agents in the new ones."""
        super().set_env(env, force_reset)  # type: ignore[misc]
        self._forget_returns()

    def _forget_returns(self) -> None:
        self.agent_returns = np.full(self.n_envs, np.nan)

    def _has_monitor(self) -> bool:
        """Then episodes may end, for the agent, before their return is known: when a life is lost."""
        env: VecEnv = self.env  # type: ignore[attr-defined]
        if is_vecenv_wrapped(env, VecMonitor):
            return True
        try:
            wrapped = np.atleast_1d(env.env_is_wrapped(Monitor))
        except Exception:  # adapters of simulators that have no wrappers raise whatever they like
            return False
        return wrapped.size > 0 and bool(wrapped.all())

    def _warn_of_missing_returns(self) -> None:
        """An episode ended, and its return was not reported."""
        if "returns" in self._needs and not self._has_monitor():
            self._warn_once(
                f"an episode ended without a return, so {self.aggregation} cannot tell the agents apart: wrap the "
                "environments in Monitor, or the vectorised one in VecMonitor"
            )


def _same(value: Any, other: Any) -> bool:
    """Whether two settings are equal; those that are or hold arrays have no truth value of their own."""
    if isinstance(value, dict) and isinstance(other, dict):
        return value.keys() == other.keys() and all(_same(value[key], other[key]) for key in value)
    return value is other or bool(np.array_equal(value, other))
