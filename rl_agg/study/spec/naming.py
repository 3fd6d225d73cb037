"""File names made of what users call things."""

import re
from pathlib import Path

from rl_agg.study.spec.study import Study

LONGEST = 60


def slug(name: str) -> str:
    """Letters, digits and underscores of a name in lower case, with hyphens between.

    >>> slug("Weighting on CartPole, v1.2")
    'weighting-on-cartpole-v1-2'
    """
    return re.sub(r"\W+", "-", name.lower())[:LONGEST].strip("-") or "study"


def default_folder(study: Study, *, quick: bool) -> Path:
    """Where a study's records go unless a user says it; a short trial has a folder of its own."""
    return Path("runs", slug(study.name) + ("-quick" if quick else ""))
