"""Agents that have parameters of their own in one process, and merge them. Axes: A agents, P numbers that each exchanges.

Source: Zhang et al. (2024), section 4.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rl_agg import COMBINERS, LOCAL_SCHEMES, RULES, Exchange, Scheme, Signals
from rl_agg.combiners import TORCHJD
from rl_agg.exchange import Merged
from rl_agg.local_schemes import LocalScheme
from rl_agg.payloads import Parameters, merge
from rl_agg.per_agent_gradients import flat, write
from rl_agg.scheme import make_scheme
from rl_agg.signals import BASIC
from rl_agg.validation import unknown_choice

PERIODIC = ("a_pps", "rs_pps", "pp_pps")
"""Rules, and layers, under the names of Zhang et al. (2024)."""

AXES = (
    *("communication", "communication_kwargs", "compression", "compression_kwargs"),
    *("broadcast_compression", "broadcast_compression_kwargs", "budget_bytes_per_update"),
)
NO_CHOICE: tuple[Any, ...] = (None, {}, "every", "identity", "keep")


def make_sharing(
    config: Any, *, head: tuple[str, ...], nothing: tuple[str, ...] = ("none",), layers: Collection[str] = (), prefix: str = ""
) -> Scheme | None:
    """The scheme by which the agents of a config exchange parameters; ``None`` where they do not.

    :param config: With ``parameter_sharing``, ``parameter_sharing_kwargs``, ``sharing_interval``, ``shared_layers`` and
        ``moments``, and with :data:`AXES` behind the prefix.
    :param head: The layers that ``pp_pps`` merges where ``shared_layers`` does not say.
    :param nothing: Choices of ``parameter_sharing`` that exchange nothing.
    :param layers: Those that there are; empty: not known yet.
    :param prefix: Of the names of gate and codec.
    :raises ValueError: if a choice or a setting is unknown, or two do not go together.
    """
    sharing, chosen, settings = config.parameter_sharing, config.shared_layers, config.parameter_sharing_kwargs
    axes = {name: getattr(config, f"{prefix}{name}") for name in AXES}
    named = sharing if isinstance(sharing, str) else None
    payload = Parameters(layers=head if chosen is None and named == "pp_pps" else chosen, moments=config.moments)
    if layers:
        payload.selected(layers)
    if named in nothing:
        own = {"parameter_sharing_kwargs": settings, "shared_layers": chosen, "moments": config.moments}
        for name, value in {**own, **{f"{prefix}{name}": value for name, value in axes.items()}}.items():
            if value not in NO_CHOICE:
                raise ValueError(
                    f"parameter_sharing={sharing!r} exchanges nothing, but {name}={value!r} was given; leave one out"
                )
        return None
    choices = (*nothing, *PERIODIC, *RULES, *COMBINERS, f"{TORCHJD}NAME")
    if named is not None and named not in choices and not named.startswith(TORCHJD):
        raise unknown_choice("parameter_sharing", sharing, choices)
    if isinstance(sharing, LocalScheme):
        raise ValueError(
            f"parameter_sharing={sharing!r} has settings of its own; give one of {', '.join(PERIODIC)}, with "
            "sharing_interval, shared_layers and moments"
        )
    rule = LOCAL_SCHEMES[named].rule if named in PERIODIC else sharing
    scheme = make_scheme(rule, settings, payload=payload, interval=config.sharing_interval, **axes)
    if missing := sorted(scheme.reported - set(BASIC)):
        raise ValueError(
            f"parameter_sharing={sharing!r} reads {', '.join(missing)}, which agents that merge parameters do not report; "
            "choose another rule"
        )
    return scheme


class SharedTensors(NamedTuple):
    """What is merged of a module, by name: parameters, and buffers of numbers, which go along uncompressed."""

    parameters: dict[str, Tensor]
    buffers: dict[str, Tensor]

    @classmethod
    def of(cls, module: nn.Module, payload: Parameters) -> SharedTensors:
        """Those of the payload's layers; of the parameters, those that are trained."""
        trained: dict[str, Tensor] = {name: own for name, own in module.named_parameters() if own.requires_grad}
        buffers = {name: value for name, value in module.named_buffers() if value.is_floating_point()}
        parameters = {name: trained[name] for name in payload.selected(trained)}
        chosen = payload.selected({**trained, **buffers})
        return cls(parameters, {name: buffers[name] for name in chosen if name in buffers})

    @property
    def named(self) -> dict[str, Tensor]:
        """Both."""
        return {**self.parameters, **self.buffers}


class SharingGroup:
    """A agents that merge with each other.

    :param exchange: Among A agents, with parameters as payload.
    :param own: Parameters of each agent ``[A][K]``, P numbers in all.
    """

    def __init__(self, exchange: Exchange, own: Sequence[Sequence[Tensor]]) -> None:
        self.exchange = exchange
        self.reference = _rows(own).mean(0)
        """The parameters that were merged last ``[P]``; at the start, the average."""

    @torch.no_grad()
    def merge(
        self,
        own: Sequence[Sequence[Tensor]],
        signals: Signals,
        *,
        along: Sequence[Sequence[Tensor]] = (),
        idle: Tensor | None = None,
    ) -> Merged | None:
        """Merge, and write the result to all agents.

        :param own: As at the start; changed in place.
        :param signals: What the agents report, each ``[A]``.
        :param along: Tensors of each agent ``[A][M]`` that are sent uncompressed, and averaged over the agents that sent, with
            the same weights; changed in place.
        :param idle: Who has nothing to send, without being at fault ``[A]``, bool; a combiner does not see it.
        :return: What was merged; ``None`` if no agent counts.
        """
        extra = sum(tensor.numel() for tensor in along[0]) if along else 0
        merged = self.exchange.merge(_rows(own), signals, idle=idle, reference=self.reference, extra=extra)
        weights = merged.present.to(self.reference) if merged.weights is None else merged.weights
        if not bool(weights.any()):
            return None
        self.reference = merged.vector
        for tensors in own:
            write(merged.vector, tensors)
        sent = weights * merged.sends
        if along and bool(sent.any()):
            means = merge(map(torch.stack, zip(*along, strict=True)), sent)
            for tensors in along:
                for tensor, mean in zip(tensors, means, strict=True):
                    tensor.copy_(mean)
        return merged

    def state_dict(self) -> dict[str, Any]:
        """What was exchanged, the ledger included."""
        return {**self.exchange.state_dict(), "reference": self.reference.cpu().clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore :meth:`state_dict`; the reference only of as many parameters."""
        self.exchange.load_state_dict(state)
        if state["reference"].shape == self.reference.shape:
            self.reference = state["reference"].to(self.reference, copy=True)


def _rows(own: Sequence[Sequence[Tensor]]) -> Tensor:
    """``[A, P]``."""
    return torch.stack([flat(tensors) for tensors in own])
