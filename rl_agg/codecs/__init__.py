"""How a message is encoded: what the receiver decodes, and how many bits it took."""

from rl_agg.codecs.base import Codec, Encoded
from rl_agg.codecs.float16 import Float16
from rl_agg.codecs.identity import Identity
from rl_agg.codecs.registry import CODECS, make_codec, register_codec

__all__ = ["CODECS", "Codec", "Encoded", "Float16", "Identity", "make_codec", "register_codec"]
