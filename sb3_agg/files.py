"""Files of an algorithm, which the stock algorithm opens too."""

from __future__ import annotations

import io
import os
import pathlib
import warnings
from collections.abc import Iterable
from typing import Any

import torch
from stable_baselines3.common.save_util import load_from_zip_file, recursive_getattr

from rl_agg import Exchange, Ledger
from sb3_agg.fused_optimizer import fused_as
from sb3_agg.patching import temporarily
from sb3_agg.plain import plain_setting, plain_state, restored_state, unpickled

SETTINGS = (
    *("aggregation", "aggregation_kwargs", "communication_kwargs"),
    *("compression", "compression_kwargs", "payload", "interval", "attack"),
    *("broadcast_compression", "broadcast_compression_kwargs"),
)
"""Settings that may be, or hold, objects; not every algorithm has all of them."""

UNSAVED = (
    "exchange",
    "_rollout_returns",
    "_warned",
    "_local_models",
    "_acting",
    "_awaits_train",
    "_updates_before",
    "_is_learning",
    "_reached",
    "_built",
    "_closed_form",
    "_logged_reasons",
    "_whole_rollouts",
    *("exchanges", "_update", "_returns", "_minibatches", "_num_updates_seen"),
)

EXCHANGE = "exchange"
"""Where ``get_parameters()[optimizer]`` has what an exchange remembers: stock algorithms read past it there."""


class FilesMixin:
    """The part of :class:`~sb3_agg.mixin.AggregationMixin` that concerns files.

    Stock algorithms open a file where this package is not installed: it holds plain numbers, texts and ``state_dict``s, and
    objects among the settings as text that only :meth:`_open_settings` looks into.
    """

    ledger: Ledger
    policy: Any
    exchange: Exchange

    def _exchanges(self) -> dict[str, Exchange]:
        """Exchanges, by the optimiser that steps with what they merge."""
        return {"policy.optimizer": self.exchange}

    def _settings(self) -> list[str]:
        return [name for name in SETTINGS if hasattr(self, name)]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """As SB3's, but a file that was there before stays until the new one is complete."""
        plain = {name: plain_setting(getattr(self, name)) for name in self._settings()}
        target = _target(path) if isinstance(path, str | pathlib.Path) else None
        partial = None if target is None else target.with_name(f"{target.name}.partial")
        exclude = [*(exclude or ()), *UNSAVED]  # not by _excluded_save_params(), which a subclass may override
        with temporarily(self, ledger=self.ledger.state_dict(), **plain):
            save = super().save  # type: ignore[misc]
            if target is None or partial is None:
                save(path, exclude, include)
                return
            try:
                save(partial, exclude, include)
                os.replace(partial, target)
            finally:
                partial.unlink(missing_ok=True)

    def _open_settings(self) -> None:
        """Make the objects again that a file has as text."""
        for name in self._settings():
            setattr(self, name, unpickled(getattr(self, name)))

    def get_parameters(self) -> dict[str, dict[str, Any]]:
        """As SB3's, with what an exchange remembers under ``[optimizer]["exchange"]``, as ``["policy.optimizer"]``.

        Where a class of one's own saves no optimiser, that is left out, too.
        """
        parameters: dict[str, dict[str, Any]] = super().get_parameters()  # type: ignore[misc]
        for name, exchange in self._exchanges().items():
            if exchange.has_state and name in parameters:
                state = exchange.state_dict()
                del state["ledger"]  # which stays a model's own
                parameters[name][EXCHANGE] = plain_state(state)
        return parameters

    def set_parameters(self, load_path_or_dict: Any, exact_match: bool = True, device: torch.device | str = "auto") -> None:
        """As SB3's, but whether the optimiser runs as one kernel is the model's choice, not the file's.

        Where nothing is given for the exchange, it keeps what it remembers.
        """
        parameters = load_path_or_dict
        if not isinstance(parameters, dict):
            _, parameters, _ = load_from_zip_file(load_path_or_dict, device=device, load_data=False)
        exchanges = self._exchanges()
        adapted = parameters
        for name in exchanges:
            adapted = fused_as(name, recursive_getattr(self, name), adapted)
        super().set_parameters(adapted, exact_match, device)  # type: ignore[misc]
        for name, exchange in exchanges.items():
            state = parameters.get(name, {}).get(EXCHANGE)
            if state is not None and exchange.has_state:
                exchange.load_state_dict(restored_state(state))


def _target(path: str | pathlib.Path) -> pathlib.Path | None:
    """The file that SB3 would write; ``None`` if it is something else than a file, a device say."""
    target = pathlib.Path(path)
    if target.suffix == "":
        target = pathlib.Path(f"{target}.zip")
    while target.is_dir():
        warnings.warn(f"Path '{target}' is a folder. Will save instead to {target}_2", stacklevel=3)
        target = pathlib.Path(f"{target}_2")
    if target.is_symlink():
        target = target.resolve()
    return target if target.is_file() or not target.exists() else None
