"""Streams come back as they were, take what their entropy asks for, and damaged ones are refused."""

from __future__ import annotations

import contextlib
import functools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import entropy

from core import zoo
from core.errors import BadArtifact
from core.methods.apply import Context, apply
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.quantize import Quantize
from core.methods.share_weights import ShareWeights
from core.methods.ternarize import Ternarize
from core.models.architecture import Architecture
from core.packed.coding import LARGER, LARGEST_ALPHABET, Coded, Positions, Table, decode, decode_positions, decode_table, encode, plan_sparse, varint
from core.packed.entries import plan
from core.packed.histograms import Outline, histogram
from core.weights import Compressed

numbers = st.one_of(
    st.lists(st.integers(-8, 7), max_size=300),
    st.lists(st.integers(-32768, 32767), max_size=300),
    st.lists(st.integers(-(2**60), 2**60), max_size=20),
    st.lists(st.sampled_from([0, 0, 0, 0, 5]), max_size=3000),
)


TAIL = {("long tail", 1_000): 56, ("long tail", 30_000): 154}  # more bytes than that: of 189 and 1,869 different symbols most occur once


def entropy_bytes(symbols: np.ndarray) -> float:
    """The order-0 entropy of a whole stream, by scipy."""
    _values, counts = np.unique(symbols, return_counts=True)
    return float(entropy(counts, base=2)) * symbols.size / 8


def stream_entropy(stream: Coded | Positions, count: int) -> float:
    """Bytes of a stream's order-0 entropy: of codes as they are, of positions that of the mask, whose `count` bits are what they tell."""
    if isinstance(stream, Coded):
        return entropy_bytes(stream.symbols) if stream.symbols.size else 0.0
    share = stream.places / count
    return count * float(entropy([share, 1 - share], base=2)) / 8


def normal_codes(count: int, bits: int, seed: int = 0) -> np.ndarray:
    """Codes of normally distributed weights on a symmetric grid that reaches 2.7 deviations."""
    high = 2 ** (bits - 1) - 1
    return np.clip(np.rint(np.random.default_rng(seed).normal(0, high / 2.7, count)), -high, high).astype(np.int16)


@given(numbers, st.booleans())
def test_numbers_come_back(values, compact):
    symbols = np.array(values, np.int64)
    assert np.array_equal(decode(encode(symbols, compact), symbols.size), symbols)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("count", [262_143, 262_144, 600_001])
@pytest.mark.parametrize("bits", [2, 16])
def test_long_streams_come_back(count, bits, compact):
    symbols = normal_codes(count, bits)
    assert np.array_equal(decode(encode(symbols, compact), count), symbols)


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("bits", [2, 3, 4, 5])
@pytest.mark.parametrize("count", [1, 10, 100, 1_000, 100_000])
def test_small_grids_take_their_entropy(bits, count, compact):
    symbols = normal_codes(count, bits)
    assert len(encode(symbols, compact)) <= 1.01 * entropy_bytes(symbols) + 64


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize(("bits", "count"), [(6, 1_000), (6, 100_000), (8, 500), (8, 9_408), (8, 200_000), (16, 500_000)])
def test_wide_grids_take_their_entropy(bits, count, compact):
    symbols = normal_codes(count, bits)
    assert len(encode(symbols, compact)) <= 1.01 * entropy_bytes(symbols) + 64


@pytest.mark.parametrize("compact", [False, True])
@pytest.mark.parametrize("sparsity", [0.05, 0.5, 0.8, 0.95, 0.99, 0.9999])
def test_positions_take_their_entropy(sparsity, compact):
    """Scattered at random, n positions need n·H(p) bits: nothing can do better."""
    kept = np.random.default_rng(1).random(300_000) > sparsity
    share = kept.mean()
    positions = Positions.of(np.flatnonzero(kept), kept.size)
    data = positions.encode(compact)
    assert len(data) <= 1.01 * kept.size * float(entropy([share, 1 - share], base=2)) / 8 + 64
    assert np.array_equal(decode_positions(data, kept.size), np.flatnonzero(kept))


@functools.cache
def distributions(count: int) -> dict[str, np.ndarray]:
    """Streams of whole numbers as differently spread as codes, gaps and counters are."""
    rng = np.random.default_rng(3)
    zipf = np.minimum(rng.zipf(1.3, count), 5000)
    return {
        "even": rng.integers(-128, 128, count), "geometric": rng.geometric(0.05, count), "laplace": np.rint(rng.laplace(0, 6, count)).astype(int),
        "long tail": zipf, "two peaks": np.where(rng.random(count) < 0.5, -100, 100) + rng.integers(-3, 4, count),
        "nearly constant": (rng.random(count) < 1e-3) * 7,
        "constant": np.full(count, -5), "alternating": np.arange(count) % 2, "far from zero": 20_000 + rng.binomial(40, 0.3, count),
    }  # fmt: skip


@pytest.mark.parametrize("count", [1_000, 30_000, 1_000_000])
@pytest.mark.parametrize("name", list(distributions(2)))
def test_streams_of_any_spread_take_their_entropy(name, count):
    symbols = distributions(count)[name]
    data = encode(symbols, compact=True)
    assert len(data) <= 1.01 * entropy_bytes(symbols) + 64 + TAIL.get((name, count), 0)
    assert np.array_equal(decode(data, count), symbols)


PACKED = {
    "4 bits of a fifth": [MagnitudePrune(sparsity=0.8), Quantize(weight_bits=4, clipping="mse")],
    "8 bits": [Quantize(weight_bits=8)],
    "shared": [MagnitudePrune(sparsity=0.6), ShareWeights(clusters=32)],
    "ternary": [Ternarize()],
}


@pytest.mark.parametrize("name", list(PACKED))
@pytest.mark.parametrize(
    "model", ["squeezenet1_1", "shufflenet_v2_x0_5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v3_small", "resnet18"))]
)
def test_every_stream_of_a_packed_shipped_model_takes_its_entropy(model, name):
    checkpoint = zoo.checkpoint(model, "fashion_mnist")
    subject = Compressed.of(checkpoint.load(), Architecture(model, checkpoint.classes, checkpoint.input_size))
    for step in PACKED[name]:
        apply(step, subject, Context(checkpoint, None))
    taken, least, books = 0, 0.0, {}
    for path, parameter in subject.stored():
        for kind, stream in plan(subject.weights[path], parameter.detach(), books)[1]:
            if not isinstance(stream, (Coded, Positions)):
                continue
            size, bound = len(stream.encode(compact=True)), stream_entropy(stream, parameter.numel())
            assert size <= 1.01 * bound + 64, (path, kind)
            taken, least = taken + size, least + bound
    assert 50_000 < least and taken <= 1.015 * least  # the whole file, every short stream included


@given(st.integers(1, 3000).flatmap(lambda count: st.tuples(st.just(count), st.sets(st.integers(0, count - 1)))))
def test_positions_come_back(given_places):
    count, places = given_places
    places = np.array(sorted(places), np.int64)
    assert np.array_equal(decode_positions(Positions.of(places, count).encode(), count), places)


def test_a_pruned_region_does_not_spoil_the_gaps():
    """One gap of a million costs runs, not a histogram a million wide."""
    places = np.concatenate([np.arange(0, 50_000, 5), np.arange(1_500_000, 1_550_000, 5)])
    data = Positions.of(places, 1_600_000).encode()
    assert len(data) < 2_000
    assert np.array_equal(decode_positions(data, 1_600_000), places)


@given(numbers)
def test_no_stream_is_larger_than_packed_bits(values):
    symbols = np.array(values, np.int64)
    if symbols.size:
        width = int(symbols.max() - symbols.min()).bit_length()
        assert len(encode(symbols)) <= (symbols.size * width + 7) // 8 + 11


@given(numbers)
def test_sizes_are_told_before_coding(values):
    symbols = np.array(values, np.int64)
    coded = Coded.of(symbols)
    data = coded.encode(compact=coded.coding.outline is not None)
    assert abs(coded.size - len(data)) <= 4 or data[0] & 0xE0 == 0x40
    assert len(coded.encode(compact=True)) <= LARGER * coded.size + 4


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_sizes_of_long_streams_are_told_before_coding(bits):
    coded = Coded.of(normal_codes(300_000, bits))
    assert coded.size == pytest.approx(len(coded.encode()), rel=1e-3)
    assert 0.99 * coded.size < len(coded.encode(compact=True)) <= LARGER * coded.size


def test_long_streams_are_in_bins_and_bins_are_smaller_where_short_ones_waste_their_histogram():
    long, short = normal_codes(100_000, 8), np.append(np.arange(0, 160, 7), np.full(150, 127))
    assert encode(long, compact=True)[0] == 0x40 and len(encode(short, compact=True)) < len(encode(short)) - 10


@pytest.mark.parametrize("count", [0, 1, 3, 5_000])
def test_tables_come_back_bit_for_bit_and_take_no_more_than_raw_floats(count):
    numbers = np.random.default_rng(4).normal(1, 0.1, count).astype("<f4")
    numbers[: min(count, 6)] = np.array([np.nan, -0.0, np.inf, -np.inf, 1e-45, 3.4e38], "<f4")[: min(count, 6)]
    numbers.view("<u4")[:1] = 0x7FC01234  # no number, with something to say
    table = Table(numbers)
    data = table.encode(compact=True)
    assert len(data) == table.size <= numbers.nbytes and decode_table(data, count).tobytes() == numbers.tobytes() == table.encode()
    assert count < 5_000 or len(data) < 0.9 * numbers.nbytes  # the exponents are alike


def test_tables_do_not_profit_from_halves_that_were_widened():
    """Shipped checkpoints are float16 widened to float32: 13 bits of each number are 0. A size that counts on them would be another model's."""
    whole = np.random.default_rng(5).normal(0, 1, 20_000).astype("<f4")
    assert Table(whole.astype("<f2").astype("<f4")).size == pytest.approx(Table(whole).size, rel=0.05)


@pytest.mark.parametrize("density", [0.0, 0.01, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("count", [50, 200_000])
def test_sparse_values_take_the_smaller_form(density, count):
    """Never more than either form by itself, apart from what the saved time is worth."""
    rng = np.random.default_rng(2)
    values = normal_codes(count, 4) * (rng.random(count) < density)
    positions, coded = plan_sparse(values)
    taken = len(coded.encode()) + (len(positions.encode()) if positions else 0)
    places = np.flatnonzero(values)
    apart = len(Positions.of(places, count).encode()) + len(encode(values[places]))
    assert taken <= min(len(encode(values)), apart) * 1.002 + count // 4096 + 8


def test_histogram_counts_like_numpy():
    symbols = normal_codes(10_000, 8)
    assert np.array_equal(histogram(symbols, -127, 127), np.bincount(symbols + 127, minlength=255))


PLACES = np.array([0, 3, 4, 100, 101, 900])
KNOWN = {  # numbers → their bytes in hexadecimal
    "packed": (np.arange(20) * 7 % 13 - 6, "840b708192a3b4c506172839"),
    "coded": (np.where(np.arange(300) % 11, 0, 3), "000004983c4986843ec4b5ec718dc2c49fea7d069bfd11daf50e0f"),
    "low bits apart": (
        np.arange(200) ** 2 // 150,
        "04001100000000000010111122223343445566768798a9bacbdcee0f102243547688a9cbddfe1032547698badc0f21437698caed10426598cafd2053"
        "86b9ec104386b9ed205497db0e4286ca0e4286ca0e4286ca1e5397ec2075c90e53a8fc4196eb3085da2085805bf4819bd4ecc5f537e41d1df3e03953"
        "36d4c8eb7ec7774f74bebd1921ba56eb80ab20175bac1a6daba365ff748f4cd4c983b914638253364373342e1d6ee6d3c9686f1dde414aa79854a3c1"
        "2c2485285a2ed8a8c401cab8c02a08727a2e2af518fcbf40ae03",
    ),
}


@pytest.mark.parametrize("form", KNOWN)
def test_the_format_stays_as_it_is(form):
    """Bytes written once must be read for ever: a change here needs a new version of the packed file."""
    symbols, known = KNOWN[form]
    assert encode(symbols).hex() == known
    assert np.array_equal(decode(bytes.fromhex(known), symbols.size), symbols)


OUTLINED = {  # a centre in the first symbol, and one in the middle of symbols that reach as far below 0 as above
    "first": (
        np.arange(90) ** 3 // 9000,
        "21004fabc4ebf6932ae00f6ecfd421549bc4a8e152bae0d6deacfc793ca27276d395888ef689229046782b40ee68ba3a3f5ec85a0a3ca365ac1642119c5799e0f25ef068f902",
    ),
    "mirrored": (
        np.array([-40, 40, *(np.arange(60) - 30) ** 3 // 800]),
        "3228703ce018a1a0c5f7f285ae5a4c3780b88fbd7cf885be516d1496400159432958042012243df95b459c40503ebd5ddb8e057001",
    ),
}


@pytest.mark.parametrize("form", OUTLINED)
def test_the_format_of_outlines_stays_as_it_is(form):
    symbols, known = OUTLINED[form]
    assert encode(symbols, compact=True).hex() == known and np.array_equal(decode(bytes.fromhex(known), symbols.size), symbols)


@pytest.mark.slow
@given(st.data())
def test_streams_under_an_outline_come_back(data):
    """Whatever the spread: an outline gives every symbol a frequency."""
    numbers = data.draw(st.lists(st.integers(0, data.draw(st.sampled_from([5, 60, 255, 9_000]))), min_size=20, max_size=400))
    symbols = np.array([0, *numbers, max(numbers) + 4], np.int32)
    outline, offset = Outline.of(np.bincount(symbols)), data.draw(st.sampled_from([0, -3, 7, -(max(numbers) + 4) // 2]))
    coded = replace(Coded.of(symbols + offset).coding, outline=outline, size=0).encode(symbols + offset, compact=True)
    symbols = symbols + offset
    assert coded[0] & 0xE0 == 0x20 and np.array_equal(decode(coded, symbols.size), symbols)


def test_an_outline_takes_less_where_a_short_stream_has_many_symbols():
    symbols = np.clip(np.rint(8 * np.random.default_rng(0).standard_t(2, 1_500)), -127, 127).astype(np.int16)
    coded = Coded.of(symbols)
    assert coded.coding.outline is not None and abs(len(coded.encode(compact=True)) - coded.size) <= 4
    assert len(coded.encode(compact=True)) < len(coded.encode()) - 10


BINNED = (np.repeat([-3, 0, 1, 90], [40, 30, 20, 10]), "400504010037009001c06f20185d009fcfe10003fc3f00c3abceccccccc0007355920000000000f0ffff")


def test_the_format_of_bins_stays_as_it_is():
    symbols, known = BINNED
    assert encode(symbols, compact=True).hex() == known and np.array_equal(decode(bytes.fromhex(known), symbols.size), symbols)


def test_the_format_of_positions_stays_as_it_is():
    assert Positions.of(PLACES, 1000).encode().hex() == "0a068a00000800c01700780c"


@given(st.binary(max_size=200), st.integers(0, 5000))
def test_any_bytes_give_numbers_or_a_sentence(data, count):
    try:
        assert decode(data, count).shape == (count,)
    except BadArtifact as error:
        assert str(error).count(".") == 1


@given(st.binary(max_size=200), st.integers(1, 5000))
def test_any_bytes_give_positions_or_a_sentence(data, count):
    try:
        places = decode_positions(data, count)
    except BadArtifact:
        return
    assert np.all(np.diff(places) > 0) and (not places.size or 0 <= places[0] <= places[-1] < count)


@given(st.data())
def test_changed_bytes_give_numbers_or_a_sentence(data):
    symbols = normal_codes(400, data.draw(st.sampled_from([3, 4, 8])))
    stream = bytearray(encode(symbols, data.draw(st.booleans())))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with contextlib.suppress(BadArtifact):
        assert decode(bytes(stream), 400).shape == (400,)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",  # no offset
        b"\x00" + b"\xff" * 20,  # a number without an end
        b"\x00\x00" + varint(1 << 40),  # a histogram as large as a disk
        b"\x00\x00" + varint(LARGEST_ALPHABET + 1) + b"\x01" * 100,
        b"\x00\x00" + varint(1),  # a single symbol needs no coder
        b"\x09\x00\x02\x01",  # more low bits than there may be
        b"\x84\x00",  # packed bits cut off
        b"\xff\x00" + b"\x01" * 100,  # 127 bits a number
        b"\x00\x00\x05" + b"\x00" * 8,  # ends in zeros
        b"\x43\x00" + b"\x04\x01" * 8,  # bins of an unknown dtype
        b"\x20\x00" + varint(1 << 40) + b"\x01" * 20,  # an outline as large as a disk
        b"\x20\x00\x20\x21" + b"\x01" * 20,  # a centre beyond its end
        b"\x20\x00\x20\x10",  # without levels
        b"\x23\x00\x20" + b"\x01" * 20,  # a centre that is nowhere
        b"\x32" + varint(1 << 40) + b"\x01" * 20,  # as far below 0 as a disk is large
        b"\x31\x00" + b"\x01" * 20,  # of a single symbol
        b"\x40" + varint(1 << 40) + b"\x04\x01\x00",  # bins as far from zero as a disk is large
        encode(normal_codes(101, 4), compact=True),  # one number more
        encode(normal_codes(100, 8), compact=True) + b"\x00",
    ],
)
def test_lies_about_sizes_are_refused(data):
    with pytest.raises(BadArtifact):
        decode(data, 100)


def test_more_positions_than_weights_are_refused():
    with pytest.raises(BadArtifact, match="more positions than weights"):
        decode_positions(b"\x02" + varint(1 << 45) + b"\x80\x00", 100)
