"""Messages of every codec, bit by bit, as an encoder writes and a decoder reads them. Independent of the codecs' own code.

Axes: P numbers of a vector, K of them that are sent.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


class Reader:
    """Reads a message from its beginning."""

    def __init__(self, bits: str) -> None:
        self.bits, self.place = bits, 0

    def take(self, number: int) -> str:
        self.place += number
        assert self.place <= len(self.bits)
        return self.bits[self.place - number : self.place]

    def integer(self, width: int) -> int:
        return int(self.take(width) or "0", 2)

    def float32(self) -> float:
        value: float = struct.unpack(">f", self.integer(32).to_bytes(4, "big"))[0]
        return value

    def omega(self) -> int:
        value = 1
        while self.take(1) == "1":
            value = int("1" + self.take(value), 2)
        return value

    @property
    def is_over(self) -> bool:
        return self.place == len(self.bits)


def integer(value: int, width: int) -> str:
    assert 0 <= value < 2**width
    return format(value, f"0{width}b") if width else ""


def float32(value: float) -> str:
    return integer(int.from_bytes(struct.pack(">f", value), "big"), 32)


def omega(value: int) -> str:
    code = "0"
    while value > 1:
        code = format(value, "b") + code
        value = len(format(value, "b")) - 1
    return code


class Message(NamedTuple):
    """How a codec's messages are written and read.

    :param write: Of what the receiver shall have ``[P]`` and of the input ``[P]``.
    :param read: Of a message and P.
    """

    write: Callable[[Vector, Vector], str]
    read: Callable[[str, int], Vector]


def floats(kind: str) -> Message:
    """Every number as a float of numpy's, or a bfloat16."""

    def write(decoded: Vector, row: Vector) -> str:
        if kind == "bfloat16":
            assert all(float32(value)[16:] == "0" * 16 for value in decoded)
            return "".join(float32(value)[:16] for value in decoded)
        return "".join(format(byte, "08b") for byte in decoded.astype(kind).tobytes())

    def read(bits: str, size: int) -> Vector:
        if kind == "bfloat16":
            reader = Reader("".join(bits[place : place + 16] + "0" * 16 for place in range(0, len(bits), 16)))
            return np.array([reader.float32() for _ in range(size)])
        return np.frombuffer(bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8)), dtype=kind).astype(np.float64)

    return Message(write, read)


def sparse(count: Callable[[int], int], places: Callable[[int], list[int]] | None, scale: bool, number: str = "f4") -> Message:
    """K numbers, and their places unless both sides know them.

    :param count: K of P.
    :param places: Those that both sides know, of P.
    :param scale: Whether what is decoded is P / K times what is sent.
    :param number: How each is written.
    """
    inner = floats({"f4": "float32", "f2": "float16"}[number])

    def write(decoded: Vector, row: Vector) -> str:
        size, k = len(decoded), count(len(decoded))
        if places is not None:
            chosen, head = places(size), ""
        else:
            chosen = [int(i) for i in np.flatnonzero(decoded)]
            chosen = sorted(chosen + [i for i in range(size) if decoded[i] == 0][: k - len(chosen)])
            width = math.ceil(math.log2(size))
            head = "".join(integer(i, width) for i in chosen)
            if len(head) > size:
                head = "".join("1" if i in chosen else "0" for i in range(size))
        assert len(chosen) == k
        assert set(np.flatnonzero(decoded)) <= set(chosen)
        values = decoded[chosen] / (size / k if scale else 1)
        return head + inner.write(values, values)

    def read(bits: str, size: int) -> Vector:
        reader, k = Reader(bits), count(size)
        if places is not None:
            chosen = places(size)
        elif k * math.ceil(math.log2(size)) > size:
            chosen = [i for i in range(size) if reader.take(1) == "1"]
        else:
            chosen = [reader.integer(math.ceil(math.log2(size))) for _ in range(k)]
        decoded = np.zeros(size)
        decoded[chosen] = inner.read(bits[reader.place :], k) * (size / k if scale else 1)
        return decoded

    return Message(write, read)


def _write_sign(decoded: Vector, row: Vector) -> str:
    return float32(abs(decoded[0])) + "".join("1" if value >= 0 else "0" for value in row)


def _read_sign(bits: str, size: int) -> Vector:
    reader = Reader(bits)
    scale = reader.float32()
    return np.array([scale if reader.take(1) == "1" else -scale for _ in range(size)])


def _levels(decoded: Vector, length: float, levels: int) -> list[int]:
    exact = decoded * levels / length if length else decoded
    whole = [round(value) for value in exact]
    np.testing.assert_allclose(whole, exact, atol=1e-3)
    assert all(abs(level) <= levels for level in whole)
    return whole


def _write_ternary(decoded: Vector, row: Vector) -> str:
    digits = [1 + level for level in _levels(decoded, np.abs(row).max(), 1)]
    digits += [0] * (-len(digits) % 5)
    groups = [digits[place : place + 5] for place in range(0, len(digits), 5)]
    return float32(np.abs(row).max()) + "".join(integer(sum(d * 3**i for i, d in enumerate(own)), 8) for own in groups)


def _read_ternary(bits: str, size: int) -> Vector:
    reader = Reader(bits)
    scale, digits = reader.float32(), list[int]()
    while not reader.is_over:
        group = reader.integer(8)
        digits += [group // 3**i % 3 - 1 for i in range(5)]
    return scale * np.array(digits[:size], np.float64)


def quantized(levels: int, coding: str) -> Message:
    """Levels of fixed width, or Elias' codes of distances and levels that are not 0."""
    width = math.ceil(math.log2(2 * levels + 1))

    def write(decoded: Vector, row: Vector) -> str:
        length = float(np.linalg.norm(row))
        bits, last = float32(length), -1
        for place, level in enumerate(_levels(decoded, length, levels)):
            if coding == "fixed":
                bits += integer(level + levels, width)
            elif level:
                bits += omega(place - last) + ("1" if level > 0 else "0") + omega(abs(level))
                last = place
        return bits

    def read(bits: str, size: int) -> Vector:
        reader, decoded, place = Reader(bits), np.zeros(size), -1
        length = reader.float32()
        if coding == "fixed":
            return length / levels * np.array([reader.integer(width) - levels for _ in range(size)])
        while not reader.is_over:
            place += reader.omega()
            sign = 1 if reader.take(1) == "1" else -1
            decoded[place] = sign * reader.omega() * length / levels
        return decoded

    return Message(write, read)


SIGN = Message(_write_sign, _read_sign)
TERNARY = Message(_write_ternary, _read_ternary)


def check_message(message: Message, decoded: Any, row: Any, bits: int) -> None:
    """A receiver can decode a message of this size to these numbers."""
    exact = np.asarray(decoded, np.float64)
    written = message.write(exact, np.asarray(row, np.float64))
    assert len(written) == bits
    np.testing.assert_allclose(message.read(written, len(exact)), exact, rtol=1e-5, atol=1e-30)
