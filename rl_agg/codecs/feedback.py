"""Error feedback: what a lossy codec loses is not lost. Axes: S agents that send, P numbers that each sends."""

from collections.abc import Callable

from torch import Tensor

from rl_agg.codecs.base import Encoded, Encoder


def classic(rows: Tensor, memory: Tensor, encode: Encoder) -> tuple[Encoded, Tensor]:
    r"""Add to each message what was lost of those before.

    The agent sends :math:`c = C(x + e)` and keeps :math:`e \leftarrow x + e - c`; the server uses :math:`c`.

    :param rows: :math:`x` ``[S, P]``.
    :param memory: :math:`e` of the agents that send ``[S, P]``, at first 0.
    :param encode: :math:`C`.
    :return: What the server uses, with the size of what was sent; and the new memory ``[S, P]``.

    Source: Seide et al. (2014); Stich et al. (2018), Sparsified SGD with memory, algorithm 1.
    """
    wanted = rows + memory
    encoded = encode(wanted)
    return encoded, wanted - encoded.decoded


def ef21(rows: Tensor, memory: Tensor, encode: Encoder) -> tuple[Encoded, Tensor]:
    r"""Send differences from what the server has of the agent.

    The agent sends :math:`C(x - g)`, and both do :math:`g \leftarrow g + C(x - g)`; the server uses :math:`g`.

    Parameters as for :func:`classic`, with :math:`g` as memory.

    Source: Richtárik et al. (2021), EF21, algorithm 2.
    """
    encoded = encode(rows - memory)
    known = memory + encoded.decoded
    return Encoded(known, encoded.bits), known


FEEDBACKS: dict[str, Callable[[Tensor, Tensor, Encoder], tuple[Encoded, Tensor]]] = {"classic": classic, "ef21": ef21}
"""Kinds of error feedback by name."""
