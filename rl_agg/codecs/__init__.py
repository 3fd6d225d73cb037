"""How a message is encoded: what the receiver decodes, and how many bits it took."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from rl_agg.codecs.base import Codec, Encoded, RandomCodec, encoder
from rl_agg.codecs.bfloat16 import BFloat16
from rl_agg.codecs.chain import Chain
from rl_agg.codecs.draws import Draws
from rl_agg.codecs.feedback import FEEDBACKS
from rl_agg.codecs.float16 import Float16
from rl_agg.codecs.identity import Identity
from rl_agg.codecs.quantize import Quantize
from rl_agg.codecs.random_k import RandomK
from rl_agg.codecs.sign import Sign
from rl_agg.codecs.sparse import Sparse
from rl_agg.codecs.ternary import Ternary
from rl_agg.codecs.top_k import TopK
from rl_agg.registry import Registry, check_member
from rl_agg.validation import build

__all__ = [
    "CODECS",
    "FEEDBACKS",
    "BFloat16",
    "Chain",
    "Codec",
    "Compression",
    "Draws",
    "Encoded",
    "Float16",
    "Identity",
    "Quantize",
    "RandomCodec",
    "RandomK",
    "Sign",
    "Sparse",
    "Ternary",
    "TopK",
    "encoder",
    "make_codec",
    "register_codec",
]

CODECS: Registry[type[Codec]] = Registry(
    "codec",
    "compression",
    {
        "identity": Identity,
        "float16": Float16,
        "bfloat16": BFloat16,
        "top_k": TopK,
        "random_k": RandomK,
        "sign": Sign,
        "quantize": Quantize,
        "ternary": Ternary,
    },
)
"""Codecs by name."""

Compression = str | Codec | Sequence[str | Codec]
"""A name of :data:`CODECS`, a codec, or several of them one behind the other: ``("top_k", "float16")``."""


def register_codec(name: str, codec: type[Codec]) -> None:
    """Let ``compression=name`` stand for a codec.

    :param name: What users write.
    :param codec: Built as ``codec(**settings)``.
    :raises ValueError: if the name is taken or not an identifier, or ``codec`` is not a concrete subclass of :class:`Codec`.
    """
    check_member("codec", Codec, codec)
    CODECS.register(name, codec)


def make_codec(codec: Compression, settings: Mapping[str, Any]) -> Codec:
    """Build what ``compression=`` asks for.

    :param codec: See :data:`Compression`.
    :param settings: Settings of what is named; of several, each gets those that it has.
    :raises ValueError: if the name, a setting or a value is unknown, or a chain is none, see :class:`Chain`.
    """
    if isinstance(codec, list | tuple):
        return _make_chain(codec, settings)
    if not isinstance(codec, Codec):
        return build(str(codec), CODECS.find(codec), settings)
    if settings:
        raise ValueError(f"{codec!r} has its settings already, got {dict(settings)} as well")
    return codec


def _make_chain(codecs: Sequence[str | Codec], settings: Mapping[str, Any]) -> Chain:
    known = [() if isinstance(codec, Codec) else inspect.signature(CODECS.find(codec)).parameters for codec in codecs]
    choices = sorted({name for names in known for name in names})
    unknown = sorted(settings.keys() - set(choices))
    if unknown:
        listed = f"choose from {', '.join(choices)}" if choices else "there is none"
        raise ValueError(f"none of {tuple(codecs)!r} has a setting {', '.join(map(repr, unknown))}; {listed}")
    return Chain(
        tuple(
            make_codec(codec, {name: settings[name] for name in names if name in settings})
            for codec, names in zip(codecs, known, strict=True)
        )
    )
