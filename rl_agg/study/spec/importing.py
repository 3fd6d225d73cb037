"""Modules that a study names, which may be the user's own."""

import importlib
from types import ModuleType

from rl_agg.study.errors import StudyError, extra_of


def import_named(module: str, where: str) -> ModuleType:
    """Import a module.

    :param module: Its name, as in the study.
    :param where: Names the place in messages.
    :raises StudyError: if it does not exist, needs another one that does not, or raises something itself.
    :raises ModuleNotFoundError: if it needs a module that an extra brings, see :func:`~rl_agg.study.errors.extras_named`.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if extra_of(missing):
            raise  # reported with the extra that brings it
        if f"{module}.".startswith(f"{missing}."):
            reason = f"there is no module {missing!r}; start in the folder of that module, or install it"
        else:
            reason = f"{module} needs a module {missing!r}, which is not installed"
        raise StudyError(f"{where}: {reason}") from error
    except (Exception, SystemExit) as error:  # whatever the user's own module raises, or even ends
        raise StudyError(f"{where}: {module} cannot be imported: {type(error).__name__}: {error}") from error
