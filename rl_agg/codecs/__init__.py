"""How a message is encoded: what the receiver decodes, and how many bits it took."""

from collections.abc import Mapping
from typing import Any

from rl_agg.codecs.base import Codec, Encoded
from rl_agg.codecs.float16 import Float16
from rl_agg.codecs.identity import Identity
from rl_agg.registry import Registry, check_member
from rl_agg.validation import build

__all__ = ["CODECS", "Codec", "Encoded", "Float16", "Identity", "make_codec", "register_codec"]

CODECS: Registry[type[Codec]] = Registry("codec", "compression", {"identity": Identity, "float16": Float16})
"""Codecs by name."""


def register_codec(name: str, codec: type[Codec]) -> None:
    """Let ``compression=name`` stand for a codec.

    :param name: What users write.
    :param codec: Built as ``codec(**settings)``.
    :raises ValueError: if the name is taken or not an identifier, or ``codec`` is not a concrete subclass of :class:`Codec`.
    """
    check_member("codec", Codec, codec)
    CODECS.register(name, codec)


def make_codec(codec: str | Codec, settings: Mapping[str, Any]) -> Codec:
    """Build what ``compression=`` asks for.

    :param codec: A name of :data:`CODECS`, or a codec.
    :param settings: Settings of what is named.
    :raises ValueError: if the name, a setting or a value is unknown.
    """
    if not isinstance(codec, Codec):
        return build(codec, CODECS.find(codec), settings)
    if settings:
        raise ValueError(f"{codec!r} has its settings already, got {dict(settings)} as well")
    return codec
