"""Uniting the results that several machines made of one study, or of parts of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_agg.study.errors import StudyError
from rl_agg.study.spec import Study, fingerprint
from rl_agg.study.store import Store


def merge_studies(sources: Sequence[Path], directory: Path) -> Study:
    """Copy the finished cells of several folders into one; what it holds already stays.

    Systems and environments of one name must be the same everywhere; seeds are united.

    :param sources: Folders of studies, finished or not; title, baseline and order are the first one's.
    :param directory: Where to; made where it does not exist.
    :return: The study that it holds then.
    :raises StudyError: if a folder holds no study, or two hold different things under one name.
    """
    if not sources:
        raise StudyError("nothing to merge: name the folders of the studies")
    target = Store(directory)
    stores = [Store(source) for source in sources]
    studies = [store.study() for store in stores]
    if target.has_study:
        studies.append(target.study())
    united = studies[0]
    for study, store in zip(studies[1:], [*stores[1:], target], strict=False):
        united = _united(united, study, store.directory)
    with target.writing(united):
        for cell in united.cells:
            for store in stores:
                record = store.raw(cell)
                if record is not None and target.read(cell) is None:
                    target.keep(cell, record)
            failures = [text for store in stores if (text := store.failure(cell)) is not None]
            if failures and target.read(cell) is None:
                target.write_failure(cell, failures[0])
    return united


def _united(first: Study, second: Study, folder: Path) -> Study:
    both: dict[str, dict[str, Any]] = {}
    for kind in ("systems", "environments"):
        ours, theirs = getattr(first, kind), getattr(second, kind)
        for name in ours.keys() & theirs.keys():
            if fingerprint(ours[name]) != fingerprint(theirs[name]):
                raise StudyError(f"{folder} has another {kind[:-1]} {name!r}; rename one of them, or leave the folder out")
        both[kind] = {**ours, **{name: entry for name, entry in theirs.items() if name not in ours}}
    listed = sorted({*first.seed_list, *second.seed_list})
    seeds = len(listed) if listed == list(range(len(listed))) else listed
    systems, environments = both["systems"], both["environments"]
    return dataclasses.replace(first, systems=systems, environments=environments, seeds=seeds)
