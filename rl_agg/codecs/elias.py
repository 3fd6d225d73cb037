"""Sizes of messages that leave zeros out. Axes: S messages, P numbers of each, N numbers in all.

Source: Elias (1975), Universal codeword sets and representations of the integers; used by Alistarh et al. (2017), theorem 3.2.
"""

import torch
from torch import Tensor


def omega_bits(numbers: Tensor) -> Tensor:
    """Sizes of Elias' recursive codes: a number in binary, before it its length - 1 likewise, …, and a 0 behind.

    :param numbers: Integers >= 1 ``[N]``.
    :return: ``[N]``, integer.
    """
    bits = torch.ones_like(numbers)
    while bool((larger := numbers > 1).any()):
        lengths = torch.frexp(numbers.double()).exponent.long()  # of a number in binary
        bits += torch.where(larger, lengths, 0)
        numbers = torch.where(larger, lengths - 1, 1)
    return bits


def gap_bits(levels: Tensor) -> Tensor:
    """Sizes of messages that hold, of each number that is not 0, its distance from the last such one, a sign, and its level.

    :param levels: >= 0, whole ``[S, P]``.
    :return: ``[S]``, integer.
    """
    levels = levels.long()
    places = torch.arange(1, levels.shape[1] + 1, device=levels.device).where(levels > 0, 0)  # 0: nothing is sent
    before = places.cummax(1).values.roll(1, dims=1)
    before[:, 0] = 0
    largest = max(levels.shape[1], int(levels.amax())) if len(levels) else 0
    table = torch.cat([levels.new_zeros(1), omega_bits(torch.arange(1, largest + 1, device=levels.device))])
    return (table[(places - before).clamp(min=0)] + table[levels] + (levels > 0)).sum(1)
