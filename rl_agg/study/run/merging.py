"""Merging the results of several machines for one study, or for parts of it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import StudyError
from rl_agg.study.spec.study import Cell, Study, fingerprint

COUNTED = ["update", "env_steps", "return", "episodes"]


def merge_studies(sources: Sequence[Path], directory: Path) -> Study:
    """Copy the finished cells of several folders into one, which keeps its own.

    Systems and environments of one name must be the same everywhere; of seeds the union is taken.

    :param sources: Folders of studies, finished or not.
    :param directory: Where to; made where it does not exist. Title, baseline, order and, of several, thresholds are its own if
        it holds a study, else the first source's.
    :return: The study that it holds then.
    :raises StudyError: if a folder holds no study, or two hold different things under one name, or have
        nothing in common.
    """
    if not sources:
        raise StudyError("nothing to merge: name the folders of the studies")
    target = Store(directory)
    stores = [Store(source) for source in sources]
    first, *others = [target, *stores] if target.has_study else stores
    united = first.study()
    for store in others:
        united = _united(united, store.study(), store.directory)
    with target.writing(united):
        for cell in united.cells:
            for store in stores:
                if target.read(cell) is None and (record := store.raw(cell)) is not None:
                    target.keep(cell, record)
            failures = [text for store in stores if (text := store.failure(cell)) is not None]
            if failures and target.read(cell) is None:
                target.write_failure(cell, failures[0])
    return united


def differing_cells(sources: Sequence[Path], directory: Path) -> list[Cell]:
    """Cells whose numbers differ between a source and the folder that it was merged into, apart from wall time."""
    target, stores = Store(directory), [Store(source) for source in sources]
    differing = []
    for cell in target.study().cells:
        kept = target.read(cell)
        given = [record for store in stores if (record := store.read(cell)) is not None]
        if kept is not None and not all(record.updates[COUNTED].equals(kept.updates[COUNTED]) for record in given):
            differing.append(cell)
    return differing


def _united(first: Study, second: Study, folder: Path) -> Study:
    both: dict[str, dict[str, Any]] = {}
    if not first.systems.keys() & second.systems.keys() and not first.environments.keys() & second.environments.keys():
        raise StudyError(
            f"{folder} ({second.name!r}) has no system and no environment in common with {first.name!r}: they are no parts "
            "of one study"
        )
    for kind in ("systems", "environments"):
        ours, theirs = getattr(first, kind), getattr(second, kind)
        for name in ours.keys() & theirs.keys():
            if fingerprint(ours[name]) != fingerprint(theirs[name]):
                raise StudyError(f"{folder} has another {kind[:-1]} {name!r}; rename one of them, or leave the folder out")
        both[kind] = {**ours, **{name: entry for name, entry in theirs.items() if name not in ours}}
    for name, environment in first.environments.items():
        if environment.threshold is None and name in second.environments:
            both["environments"][name] = second.environments[name]  # the same but for that
    listed = sorted({*first.seed_list, *second.seed_list})
    seeds = len(listed) if listed == list(range(len(listed))) else listed
    systems, environments = both["systems"], both["environments"]
    return dataclasses.replace(first, systems=systems, environments=environments, seeds=seeds)
