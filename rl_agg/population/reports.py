"""Reports of agents after one episode each. Axes: k agents, S message rows, K numbers in an agent's memory."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

AGENT_ID = np.uint16
LARGEST_POPULATION = int(np.iinfo(AGENT_ID).max)
"""Type of an agent's number in a message; at most 65,535 agents."""

Payload = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Report:
    """Messages of some agents, and measurements of all for the experimenter, which no learner reads.

    :param agents: Agents that ran an episode ``[k]``.
    :param returns: Undiscounted, in the environment's own units ``[k]``; NaN if the episode was not finite.
    :param discounted: Discounted returns ``[k]``.
    :param lengths: Steps ``[k]``.
    :param memory: The agents' new memory ``[k, K]``; it travels, because they may run in another process next time.
    :param senders: Sender of each message row ``[S]``.
    :param payload: Contents of the messages by name, each ``[S, ...]``.
    :param behaviours: What characterises each episode ``[k, N]``, if novelty is searched for; the learner reads those of
        senders, in whose messages they are, and of the server's own episode.
    """

    agents: NDArray[np.int64]
    returns: NDArray[np.float64]
    discounted: NDArray[np.float64]
    lengths: NDArray[np.int64]
    memory: NDArray[np.float64]
    senders: NDArray[np.uint16]
    payload: dict[str, Payload] = field(default_factory=dict)
    behaviours: NDArray[np.float32] | None = None

    @property
    def present(self) -> NDArray[np.bool_]:
        """Agents whose episode was finite ``[k]``."""
        return np.isfinite(self.discounted)


def merge_reports(reports: Sequence[Report]) -> Report:
    """Merge reports, in the agents' order. Of agents in several reports the first counts."""
    agents = np.concatenate([report.agents for report in reports])
    _, order = np.unique(agents, return_index=True)
    kept = [set(report.agents.tolist()) for report in reports]
    for index, report_agents in enumerate(kept):
        report_agents -= set().union(*kept[:index])
    rows = np.concatenate([np.isin(report.senders, list(own)) for report, own in zip(reports, kept, strict=True)])
    senders = np.concatenate([report.senders for report in reports])
    sent = np.flatnonzero(rows)[np.argsort(senders[rows], kind="stable")]
    behaviours = [report.behaviours for report in reports if report.behaviours is not None]
    return Report(
        agents=agents[order],
        returns=np.concatenate([report.returns for report in reports])[order],
        discounted=np.concatenate([report.discounted for report in reports])[order],
        lengths=np.concatenate([report.lengths for report in reports])[order],
        memory=np.concatenate([report.memory for report in reports])[order],
        senders=senders[sent],
        payload={name: np.concatenate([report.payload[name] for report in reports])[sent] for name in reports[0].payload},
        behaviours=np.concatenate(behaviours)[order] if behaviours else None,
    )


def measures(rewards: NDArray[np.float64], sends: NDArray[np.bool_], sizes: NDArray[np.int64]) -> dict[str, float]:
    """Gunn's three measures of one update, with the 10th and 90th percentile over its agents.

    :param rewards: Discounted returns of the finite episodes.
    :param sends: Agents that sent a message, of the whole population ``[A]``.
    :param sizes: Canonical bytes that each sent ``[A]``.

    Source: Gunn (2023), section 3.2, where the last has no factor for agents that send nothing.
    """
    values = {"reward": rewards, "frequency": sends.astype(np.float64), "size": np.where(sends, sizes, 0)}
    found: dict[str, float] = {}
    for name, each in values.items():
        low, high = np.percentile(each, (10, 90)) if each.size else (np.nan, np.nan)
        mean = float(each.mean()) if each.size else float("nan")
        found |= {f"mu_{name}": mean, f"mu_{name}_p10": float(low), f"mu_{name}_p90": float(high)}
    return found


def buffer_bytes(value: Any) -> int:
    """Bytes of all arrays in nested dataclasses, mappings and sequences, as sent between processes, without framing."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return sum(buffer_bytes(getattr(value, item.name)) for item in dataclasses.fields(value))
    if isinstance(value, Mapping):
        return sum(buffer_bytes(inner) for inner in value.values())
    if isinstance(value, list | tuple):
        return sum(buffer_bytes(inner) for inner in value)
    return 0
