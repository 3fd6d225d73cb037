"""What a finished cell leaves behind: a row for each update, in one Parquet file with its metadata."""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.study import Cell

METADATA_KEY = b"rl_agg"
COLUMNS = pa.schema(
    [
        ("update", pa.int64()),
        ("env_steps", pa.int64()),
        ("wall_time", pa.float64()),
        ("return", pa.float64()),
        ("episodes", pa.int64()),
        ("agent_returns", pa.list_(pa.float64())),
    ]
)
METADATA: dict[str, type | tuple[type, ...]] = {
    "cell": str,
    "warnings": list,
    "versions": dict,
    "commit": (str, type(None)),
    "host": str,
    "platform": str,
}
"""The keys of a record's metadata that a report reads, and what they hold."""
DIGEST_KEY = b"rl_agg_digest"
"""Next to the metadata: what :func:`_digest` gives. Older records have none."""


@dataclass(frozen=True)
class CellUpdate:
    """One rollout and the training after it.

    :param update: Counted from 1.
    :param env_steps: So far, of all agents together.
    :param wall_time: Seconds since training began, this update's training included.
    :param mean_return: Mean over the scored agents of each one's raw episodic return in this rollout, or of its last known
        one; NaN until an agent has finished an episode.
    :param episodes: Finished in this rollout, by all agents together.
    :param agent_returns: Each agent's ``[A]``, NaN where still unknown.
    :param scalars: What else the system logged about the aggregation, by name.
    """

    update: int
    env_steps: int
    wall_time: float
    mean_return: float
    episodes: int
    agent_returns: list[float]
    scalars: dict[str, float] = field(default_factory=dict)

    @property
    def is_infinite(self) -> bool:
        """Whether episodes have ended, but no return of theirs is a finite number."""
        return math.isnan(self.mean_return) and (self.episodes > 0 or any(map(math.isinf, self.agent_returns)))


@dataclass(frozen=True)
class Record:
    """A finished cell.

    :param updates: One row for each update, with the columns of :data:`COLUMNS` and the scalars its system logged.
    :param metadata: The cell's definition, where it ran, and its warnings; at least the keys of :data:`METADATA`.
    """

    cell: Cell
    updates: pd.DataFrame
    metadata: dict[str, Any]


def encoded(cell: Cell, updates: Sequence[CellUpdate], origin: Mapping[str, Any], warnings: Sequence[str] = ()) -> bytes:
    """Encode a finished cell's record as a Parquet file.

    :param origin: Of :func:`~rl_agg.study.run.provenance.provenance`.
    """
    rows = [{**vars(update), "return": update.mean_return, **update.scalars} for update in updates]
    scalars = sorted({name for update in updates for name in update.scalars})
    schema = pa.schema([*COLUMNS, *((name, pa.float64()) for name in scalars)])
    metadata = {"cell": cell.key, "definition": cell.definition, "warnings": list(warnings), **origin}
    table = pa.Table.from_pylist(rows, schema=schema)
    digest = _digest(table, metadata).encode()
    table = table.replace_schema_metadata({METADATA_KEY: json.dumps(metadata).encode(), DIGEST_KEY: digest})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, write_page_checksum=True)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def decoded(cell: Cell, content: bytes) -> Record | None:
    """Decode a record.

    :return: ``None`` if it is damaged, empty, or of another definition than the cell's.
    :raises StudyError: naming the columns or keys that it lacks or that hold something else, as one of another version of
        rl-agg may.
    """
    try:
        with pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True) as file:
            table = file.read()
        metadata = json.loads(table.schema.metadata[METADATA_KEY])
        digest = table.schema.metadata.get(DIGEST_KEY)
        if digest is not None and digest != _digest(table, metadata).encode():
            return None
    except (OSError, pa.ArrowException, TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return None  # what half a file or flipped bits can raise
    if wrong := _unlike(table, metadata):
        versions = metadata.get("versions") if isinstance(metadata, dict) else None
        version = versions.get("rl-agg", "unknown") if isinstance(versions, dict) else "unknown"
        raise StudyError(f"a record of another version of rl-agg ({version}): {', '.join(wrong)}")
    if metadata["cell"] != cell.key or table.num_rows == 0:
        return None
    return Record(cell, table.to_pandas(), metadata)


def _unlike(table: pa.Table, metadata: Any) -> list[str]:
    """What a record lacks, and what in it is of another type than ours."""
    keys = metadata if isinstance(metadata, dict) else {}
    names = set(table.column_names)
    wrong = [f"{name} is missing" for name in sorted((METADATA.keys() - keys.keys()) | (set(COLUMNS.names) - names))]
    wrong += [f"{key} is {keys[key]!r}" for key, kind in METADATA.items() if key in keys and not isinstance(keys[key], kind)]
    for name in table.column_names:
        found, expected = table.schema.field(name).type, COLUMNS.field(name).type if name in COLUMNS.names else pa.float64()
        if found != expected and not (pa.types.is_list(found) and pa.types.is_list(expected)):
            wrong.append(f"column {name} holds {found} instead of {expected}")
    return wrong


def _digest(table: pa.Table, metadata: Mapping[str, Any]) -> str:
    """A hash of all that a record says, whatever it is written by: names, numbers and metadata.

    Parquet has checksums of its pages, and none of the names and the metadata after them.
    """
    digest = hashlib.sha256(json.dumps([table.column_names, metadata], sort_keys=True).encode())
    for column in table.columns:
        lists = pa.types.is_list(column.type)
        values = column.combine_chunks()
        if lists:
            digest.update(np.asarray(values.value_lengths().fill_null(-1), dtype="<i8").tobytes())
            values = values.flatten()
        digest.update(np.asarray(values.is_valid(), dtype=np.uint8).tobytes())
        digest.update(np.asarray(values.cast(pa.float64()).fill_null(0.0), dtype="<f8").tobytes())
    return digest.hexdigest()
