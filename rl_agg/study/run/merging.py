"""Merging the results of several machines for one study, or for parts of it."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rl_agg.study.analysis.store import Store
from rl_agg.study.errors import StudyError
from rl_agg.study.spec.study import Cell, Environment, Study, System, decisive, fingerprint

COUNTED = ["update", "env_steps", "return", "episodes"]


def merge_studies(sources: Sequence[Path], directory: Path) -> Study:
    """Copy the finished cells of several folders into one, which keeps its own.

    Systems and environments of one name must be the same everywhere; of seeds the union is taken.

    :param sources: Folders of studies, finished or not.
    :param directory: Where to; made where it does not exist. Title, baseline, order and, of several, thresholds are its own if
        it holds a study, else the first source's.
    :return: The study that it holds then.
    :raises StudyError: if a folder holds no study, two hold different things under one name, or are not related: naming what
        differs.
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
    _check_related(first, second, folder)
    both: dict[str, dict[str, Any]] = {}
    for kind in ("systems", "environments"):
        ours, theirs = getattr(first, kind), getattr(second, kind)
        for name in ours.keys() & theirs.keys():
            if fingerprint(ours[name]) != fingerprint(theirs[name]):
                raise StudyError(
                    f"{folder} has another {kind[:-1]} {name!r}: {_differences(ours[name], theirs[name])}; rename one of "
                    "them, or leave the folder out"
                )
        both[kind] = {**ours, **{name: entry for name, entry in theirs.items() if name not in ours}}
    for name, environment in first.environments.items():
        if environment.threshold is None and name in second.environments:
            both["environments"][name] = second.environments[name]  # the same but for that
    listed = sorted({*first.seed_list, *second.seed_list})
    seeds = len(listed) if listed == list(range(len(listed))) else listed
    systems, environments = both["systems"], both["environments"]
    return dataclasses.replace(first, systems=systems, environments=environments, seeds=seeds)


def _check_related(first: Study, second: Study, folder: Path) -> None:
    """Raise unless two studies have one title, or a system and an environment in common."""
    shared = [getattr(first, kind).keys() & getattr(second, kind).keys() for kind in ("systems", "environments")]
    if all(shared) or (first.name == second.name and any(shared)):
        return
    raise StudyError(
        f"{folder} ({second.name!r}: {_listed(second)}) is no part of {first.name!r} ({_listed(first)}): parts of one study "
        "have a system and an environment in common, or one of them and the name"
    )


def _listed(study: Study) -> str:
    return f"{', '.join(study.systems)} on {', '.join(study.environments)}"


def _differences(first: System | Environment, second: System | Environment) -> str:
    ours, theirs = ({key: repr(value) for key, value in _flat(decisive(entry)).items()} for entry in (first, second))
    pairs = {key: (theirs.get(key, "not set"), ours.get(key, "not set")) for key in {**ours, **theirs}}
    return ", ".join(f"{key} is {there} there and {here} here" for key, (there, here) in pairs.items() if there != here)


def _flat(entry: Any, prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``."""
    if not isinstance(entry, dict):
        return {prefix.removesuffix("."): entry}
    return {key: value for name, inner in entry.items() for key, value in _flat(inner, f"{prefix}{name}.").items()}
