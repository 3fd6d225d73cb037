"""Settings in RL Baselines3 Zoo's format, one entry per environment id.

Understood: ``policy``, ``n_envs``, ``n_timesteps``, ``normalize``, ``normalize_kwargs``, ``policy_kwargs``, ``noise_type``
with ``noise_std``, and every plain argument of the algorithm; ``lin_0.1`` for a linear schedule. Texts that the Zoo evaluates
as Python are read as data: ``dict(...)``, literals and ``nn.ReLU``-like names, nothing else. What needs more than that
(wrappers, frame stacks, callbacks) raises an error, as leaving it out would give another experiment.
"""

import ast
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rl_agg.study.errors import StudyError
from rl_agg.study.spec.parsing import load_yaml, read
from rl_agg.validation import unknown_choice

REFUSED = frozenset(
    {
        *("env_wrapper", "vec_env_wrapper", "frame_stack", "history", "monitor_kwargs", "callback", "n_eval_envs"),
        *("replay_buffer_class", "replay_buffer_kwargs", "her_kwargs", "noise_std_final"),
    }
)


@dataclass(frozen=True)
class Hyperparams:
    """One environment's entry, read."""

    policy: str | None = None
    num_agents: int | None = None
    env_steps: int | None = None
    normalize: bool | dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def settings_but_network(self) -> dict[str, Any]:
        """The settings, without the layers of a network."""
        policy_kwargs = {key: value for key, value in self.settings.get("policy_kwargs", {}).items() if key != "net_arch"}
        return {key: policy_kwargs if key == "policy_kwargs" else value for key, value in self.settings.items()}


def load_hyperparams(path: Path, environment: str) -> Hyperparams:
    """Read one environment's entry.

    :param path: A YAML file that maps environment ids to settings; the Zoo's own ``hyperparams/ppo.yml`` is one.
    :param environment: Which id.
    :raises StudyError: if the file has no such entry, or the entry has a key that is not supported.
    """
    entries = load_yaml(path)
    if not isinstance(entries, dict):
        raise StudyError(f"{path} must map environment ids to settings")
    if environment not in entries:
        raise StudyError(f"{path}: {unknown_choice('environment', environment, [str(name) for name in entries])}")
    where = f"{path}: {environment}"
    entry = entries[environment]
    if not isinstance(entry, dict):
        raise StudyError(f"{where} must be a mapping, got {entry!r}")
    settings = dict(entry)
    for key in sorted(REFUSED & settings.keys()):
        if settings.pop(key):  # the Zoo's files also spell out defaults
            raise StudyError(f"{where}: {key!r} is not supported; wrap the environment yourself and register it")
    noise = {key: settings.pop(f"noise_{key}", None) for key in ("type", "std")}
    if (noise["type"] is None) != (noise["std"] is None):
        raise StudyError(f"{where}: noise_type and noise_std go together, got {noise['type']!r} and {noise['std']!r}")
    if noise["type"] is not None:
        settings["action_noise"] = noise
    for key in ("policy_kwargs", "normalize", "normalize_kwargs"):
        if isinstance(settings.get(key), str):
            settings[key] = _literal(settings[key], f"{where}.{key}")
    normalize = settings.pop("normalize", None)
    extra = settings.pop("normalize_kwargs", None) or {}
    for key, value in {"normalize_kwargs": extra, "policy_kwargs": settings.get("policy_kwargs") or {}}.items():
        if not isinstance(value, dict):
            raise StudyError(f"{where}.{key} must be a mapping, got {value!r}")
    if extra and normalize in (None, False):
        raise StudyError(f"{where}: 'normalize_kwargs' does nothing without 'normalize'")
    if extra and isinstance(normalize, bool | dict):
        normalize = {**(normalize if isinstance(normalize, dict) else {}), **extra}
    understood = {
        "policy": settings.pop("policy", None),
        "num_agents": _whole(settings.pop("n_envs", None), f"{where}.n_envs"),
        "env_steps": _whole(settings.pop("n_timesteps", None), f"{where}.n_timesteps"),
        "normalize": normalize,
        "settings": settings,
    }
    return read(Hyperparams, understood, where)


def _whole(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value % 1 != 0 or value < 1:
        raise StudyError(f"{where} must be a whole number >= 1, got {value!r}")
    return int(value)


def _literal(text: str, where: str) -> Any:
    try:
        return _value(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, TypeError, ValueError) as error:
        raise StudyError(f"{where}: only dict(...), literals and nn.NAME are read, got {text!r}") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "dict" and not node.args:
        if any(keyword.arg is None for keyword in node.keywords):
            raise ValueError("** is not data")
        return {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value(key): _value(value) for key, value in zip(node.keys, node.values, strict=True) if key is not None}
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(element) for element in node.elts]
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "nn":
        return f"nn.{node.attr}"  # stays text, so that a study can be stored; resolved where the model is built
    return ast.literal_eval(node)
