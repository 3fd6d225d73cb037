"""What each codec sends: its numbers, its size, and its mean. Axes: S agents that send, P numbers of each."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rl_agg import CODECS
from rl_agg.codecs import Chain, Codec, Draws, Encoded, Quantize, make_codec
from rl_agg.seeding import PURPOSES, uniforms
from tests.core.encoders import SIGN, TERNARY, Message, check_message, floats, quantized, sparse
from tests.core.gradients import normal

numbers = st.floats(-60000, 60000, width=32).filter(lambda value: value == 0 or abs(value) > 1e-3)
vectors = arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=numbers)


def tenth(size: int) -> int:
    return max(1, round(size / 10))


def drawn_places(count: int, size: int) -> list[int]:
    """Of the first agent in the first exchange."""
    chances = uniforms("codec", 0, 0, np.arange(1), size)[0]
    return sorted(np.argsort(-chances, kind="stable")[:count].tolist())


class Case(NamedTuple):
    """A codec, how its messages are written, and whether its mean is the input."""

    compression: Any
    settings: dict[str, Any]
    message: Message
    unbiased: bool = False

    def make(self) -> Codec:
        return make_codec(self.compression, self.settings)


CASES: dict[str, Case] = {
    "identity": Case("identity", {}, floats("float32"), unbiased=True),
    "float16": Case("float16", {}, floats("float16")),
    "bfloat16": Case("bfloat16", {}, floats("bfloat16")),
    "top_k": Case("top_k", {"fraction": 0.1}, sparse(tenth, None, scale=False)),
    "top_k of many": Case("top_k", {"number": 20}, sparse(lambda size: min(20, size), None, scale=False)),
    "random_k": Case(
        "random_k", {"fraction": 0.1}, sparse(tenth, lambda size: drawn_places(tenth(size), size), scale=True), unbiased=True
    ),
    "sign": Case("sign", {}, SIGN),
    "quantize": Case("quantize", {}, quantized(127, "fixed"), unbiased=True),
    "quantize to few": Case("quantize", {"levels": 3}, quantized(3, "fixed"), unbiased=True),
    "quantize and elias": Case("quantize", {"levels": 5, "coding": "elias"}, quantized(5, "elias"), unbiased=True),
    "ternary": Case("ternary", {}, TERNARY, unbiased=True),
    "chain": Case(("top_k", "float16"), {"fraction": 0.1}, sparse(tenth, None, scale=False, number="f2")),
    "random chain": Case(
        ("random_k", "float16"),
        {"fraction": 0.1},
        sparse(tenth, lambda size: drawn_places(tenth(size), size), scale=True, number="f2"),
    ),
}
LOSSY = sorted(CASES.keys() - {"identity"})


def test_every_codec_is_tested() -> None:
    assert CODECS.keys() - CODECS.added.keys() <= CASES.keys()
    assert all(case.make().lossy == (name != "identity") for name, case in CASES.items())


@pytest.mark.parametrize("name", CASES)
@given(rows=vectors)
def test_a_receiver_decodes_messages_of_that_size(name: str, rows: NDArray[np.float32]) -> None:
    case, before = CASES[name], rows.copy()
    encoded = case.make()(torch.from_numpy(rows))
    assert encoded.decoded.dtype == torch.float32
    assert encoded.bits.dtype == torch.int64
    np.testing.assert_array_equal(rows, before)
    chosen = range(1) if "random" in name else range(len(rows))  # places are those of the first agent
    for agent in chosen:
        check_message(case.message, encoded.decoded[agent], rows[agent], int(encoded.bits[agent]))


def test_sizes_by_hand() -> None:
    """Of 9155 numbers, SB3's policy for CartPole: 92 of them are a hundredth, and a place takes 14 bits."""
    sizes = {name: int(CASES[name].make()(normal(1, 9155)).bits) for name in ("sign", "quantize", "ternary", "float16")}
    assert sizes == {"sign": 9155 + 32, "quantize": 8 * 9155 + 32, "ternary": 8 * 1831 + 32, "float16": 16 * 9155}
    some = {
        ("top_k",): 92 * (32 + 14),
        ("top_k", "float16"): 92 * (16 + 14),
        ("top_k", "sign"): 92 * (1 + 14) + 32,
        ("random_k",): 92 * 32,
        ("random_k", "ternary"): 8 * 19 + 32,
    }
    for names, bits in some.items():
        compression: Any = names if len(names) > 1 else names[0]
        assert make_codec(compression, {})(normal(1, 9155)).bits.tolist() == [bits], names
    tenth_of_them = make_codec("top_k", {"fraction": 0.1})(normal(1, 9155))
    assert tenth_of_them.bits.tolist() == [916 * 32 + 9155]  # a bit for each is less than 916 places


@pytest.mark.parametrize("name", ["top_k", "top_k of many", "chain"])
@given(rows=vectors)
def test_top_k_keeps_the_largest(name: str, rows: NDArray[np.float32]) -> None:
    decoded = CASES[name].make()(torch.from_numpy(rows)).decoded.numpy()
    for row, kept in zip(rows, decoded, strict=True):
        count = min(20, len(row)) if name == "top_k of many" else tenth(len(row))
        assert (kept != 0).sum() <= count
        np.testing.assert_allclose(np.sort(np.abs(kept))[-count:], np.sort(np.abs(row))[-count:], rtol=1e-3)


@given(rows=vectors)
def test_sign_has_the_nearest_scale(rows: NDArray[np.float32]) -> None:
    decoded = CASES["sign"].make()(torch.from_numpy(rows)).decoded.double().numpy()
    signs = np.where(rows >= 0, 1.0, -1.0)
    nearest = (signs * rows).sum(1, keepdims=True) / rows.shape[1]
    np.testing.assert_allclose(decoded, signs * nearest, rtol=1e-5, atol=1e-6)


# Random codecs --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(name for name, case in CASES.items() if case.unbiased))
def test_the_mean_over_draws_is_the_input(name: str) -> None:
    """Within five standard errors of each number, over 4000 exchanges."""
    codec, rows, num_draws = CASES[name].make(), normal(1, 12) * 3, 4000
    decoded = torch.cat([codec.at(Draws(run=3, step=step))(rows).decoded for step in range(num_draws)]).double()
    error = (decoded.mean(0) - rows[0].double()).abs()
    assert (error <= 5 * decoded.std(0) / math.sqrt(num_draws) + 1e-6).all()


@pytest.mark.parametrize("name", LOSSY)
@given(rows=vectors, step=st.integers(0, 9))
def test_with_error_feedback_an_error_is_no_larger_than_the_input(name: str, rows: NDArray[np.float32], step: int) -> None:
    """What error feedback needs to converge; unbiased codecs, whose error may be many times the input, send another scale."""
    decoded = CASES[name].make().at(Draws(step=step, unbiased=False))(torch.from_numpy(rows)).decoded.double().numpy()
    exact = rows.astype(np.float64)
    assert (np.linalg.norm(exact - decoded, axis=1) <= np.linalg.norm(exact, axis=1) * (1 + 1e-6)).all()


@pytest.mark.parametrize("name", LOSSY)
def test_codecs_with_error_feedback_lose_less_than_all(name: str) -> None:
    rows = normal(8, 500)
    errors = rows - CASES[name].make().at(Draws(unbiased=False))(rows).decoded
    assert (errors.norm(dim=1) < rows.norm(dim=1)).all()


@pytest.mark.parametrize(("name", "scale"), [("quantize to few", "nearest"), ("ternary", "nearest"), ("random_k", "as it is")])
def test_what_error_feedback_sends_is_nearest(name: str, scale: str) -> None:
    """The same levels, or places, times the number that makes the error least: by least squares."""
    rows, codec = normal(4, 30).double(), CASES[name].make()
    unbiased, nearest = (codec.at(Draws(unbiased=own))(rows) for own in (True, False))
    assert torch.equal(unbiased.bits, nearest.bits)
    for row, one, other in zip(rows, unbiased.decoded, nearest.decoded, strict=True):
        if scale == "as it is":
            assert torch.equal(other[one != 0], row[one != 0])
        best = np.linalg.lstsq(one[:, None].numpy(), row.numpy(), rcond=None)[0][0]
        np.testing.assert_allclose(other, best * one.numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CASES)
@given(rows=vectors, data=st.data())
def test_an_agents_message_is_its_own(name: str, rows: NDArray[np.float32], data: st.DataObject) -> None:
    """Whoever else sends, in whatever order."""
    agents = np.array(data.draw(st.lists(st.integers(0, 20), min_size=len(rows), max_size=len(rows), unique=True)))
    codec, order = CASES[name].make(), np.random.default_rng(0).permutation(len(rows))
    together = codec.at(Draws(7, 2, agents[order]))(torch.from_numpy(rows[order]))
    for place, agent in enumerate(order):
        alone = codec.at(Draws(7, 2, agents[agent : agent + 1]))(torch.from_numpy(rows[agent : agent + 1]))
        torch.testing.assert_close(together.decoded[place], alone.decoded[0], rtol=1e-6, atol=0)
        assert together.bits[place] == alone.bits[0]


@pytest.mark.parametrize("name", ["random_k", "quantize to few", "ternary", "random chain"])
def test_draws_differ_by_run_exchange_and_agent(name: str) -> None:
    codec, rows = CASES[name].make(), normal(1, 50).expand(2, -1)
    first = codec.at(Draws(1, 1))(rows).decoded
    assert torch.equal(first, codec.at(Draws(1, 1))(rows).decoded)
    assert not torch.equal(first[0], first[1])
    for other in (Draws(2, 1), Draws(1, 2), Draws(1, 1, np.array([2, 3]))):
        assert not torch.equal(first, codec.at(other)(rows).decoded)


@given(size=st.integers(1, 40), agents=st.lists(st.integers(0, 30), min_size=1, max_size=6), part=st.integers(0, 2))
def test_an_agents_numbers_are_a_stretch_of_the_exchanges_stream(size: int, agents: list[int], part: int) -> None:
    """Of as many positions of eight numbers as it needs; drawn here agent by agent, from where the ones before it end."""
    found = uniforms("codec", 5, 7, np.array(agents), size, part=part)
    for agent, row in zip(agents, found, strict=True):
        stream = np.random.Philox(key=5, counter=[0, part, 7, PURPOSES["codec"]])
        stream.advance(agent * math.ceil(size / 8))
        np.testing.assert_array_equal(row, np.random.Generator(stream).random(size, dtype=np.float32))


def test_codecs_of_a_chain_draw_by_themselves() -> None:
    """As if the second one saw the numbers that the first one chose, in the next stage."""
    rows = normal(3, 40)
    chain = Chain((make_codec("random_k", {"number": 8}), Quantize(3)))
    places = torch.from_numpy(uniforms("codec", 5, 0, np.arange(3), 40)).topk(8, dim=1, sorted=False).indices
    inner = Quantize(3).at(Draws(5, stage=1))(rows.gather(1, places))
    expected = torch.zeros(3, 40).scatter_(1, places, inner.decoded * 5)
    encoded = chain.at(Draws(5))(rows)
    torch.testing.assert_close(encoded.decoded, expected)
    assert torch.equal(encoded.bits, inner.bits)


# What is not usual ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_rows_that_are_not_finite_stay_so(name: str, bad: float) -> None:
    rows = normal(2, 30)
    rows[1, 17] = bad
    decoded = CASES[name].make()(rows).decoded
    assert decoded[0].isfinite().all()
    assert not decoded[1].isfinite().all()


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("size", [1e-30, 0.0, 1e30])
def test_very_small_and_very_large_rows(name: str, size: float) -> None:
    if name.endswith("chain") or name == "float16":
        assume_range = 0.0 if size < 1 else 65504 * 30
        assert CASES[name].make()(normal(2, 30) * size).decoded.abs().max() <= assume_range
        return
    rows = (normal(2, 30) * size).double()
    codec = CASES[name].make()
    for dtype in (torch.float32, torch.float64):
        decoded = codec(rows.to(dtype)).decoded
        assert decoded.dtype == dtype
        torch.testing.assert_close(decoded.double() / (size or 1), codec(rows / (size or 1)).decoded, rtol=1e-2, atol=1e-30)


@pytest.mark.parametrize("name", CASES)
def test_no_agent_and_one_number(name: str) -> None:
    codec = CASES[name].make()
    assert codec(torch.zeros(0, 5)).decoded.shape == (0, 5)
    assert codec(torch.zeros(0, 5)).bits.shape == (0,)
    torch.testing.assert_close(codec(torch.tensor([[-2.0]])).decoded, torch.tensor([[-2.0]]))


def test_every_number_may_be_sent() -> None:
    rows = normal(2, 7)
    for settings in ({"fraction": 1.0}, {"number": 7}, {"number": 700}):
        assert torch.equal(make_codec("top_k", settings)(rows).decoded, rows)
        assert torch.equal(make_codec("random_k", settings)(rows).decoded, rows)
    assert make_codec("top_k", {"fraction": 1})(rows).bits.tolist() == [7 * 32 + 7] * 2


class Gradients(Codec):
    """A codec of one's own, that takes gradients alone."""

    payloads = frozenset({"gradients"})

    def __call__(self, rows: torch.Tensor) -> Encoded:
        return Encoded(rows, torch.full((len(rows),), 3))


def test_a_codec_of_ones_own_ends_a_chain() -> None:
    chain = make_codec(["top_k", Gradients()], {"number": 2})
    assert chain.payloads == {"gradients"}
    encoded = chain(torch.tensor([[1.0, -5.0, 0.0, 3.0]]))
    assert encoded.decoded.tolist() == [[0.0, -5.0, 0.0, 3.0]]
    assert encoded.bits.tolist() == [3 + 2 * 2]
