"""Names of environments: Gymnasium's, with the module that registers them, and teams'."""

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.importing import import_named

TEAM_BACKENDS = ("lbf", "matrix", "mpe", "smac", "smaclite", "smacv2", "smax", "vmas")
"""What names of teams begin with: those of :mod:`rllib_agg.envs.team.registry`, which needs Ray."""

ENVPOOL = "envpool/"
"""Prefix of ids that Gymnasium does not know."""


def is_team(env: str) -> bool:
    """Whether a name is that of a team's environment."""
    return "/" in env and env.partition("/")[0] in TEAM_BACKENDS


def check_gymnasium(env: str) -> None:
    """Raise unless Gymnasium knows an id, once the module in front of it is imported.

    :raises StudyError: with what to write instead.
    """
    import gymnasium as gym  # here, as it takes a second

    if env.startswith(ENVPOOL):
        return
    if is_team(env):
        raise StudyError(f"{env!r} is a team's environment; teams are played by rllib_agg:QMIX")
    module, _, id_ = env.rpartition(":")
    if module:
        import_named(module, f"no environment {env!r}")
    try:
        gym.spec(id_)
    except gym.error.Error as error:
        teams = ", ".join(f"{backend}/TASK" for backend in TEAM_BACKENDS)
        own = f"if a module of yours registers it, write my_module:{id_ or 'MyEnv-v0'}; a team's is one of {teams}"
        hint = f"{module} registers no such id" if module else own
        raise StudyError(f"no environment {env!r}: {str(error).rstrip('.')}; {hint}") from error
