"""The roofline by hand: which bound holds, what is added, what does not fit, what cannot run."""

import pytest

from core.errors import BadInput
from core.targets.roofline import COMPUTE, COMPUTING, CONVOLUTION, ELEMENTWISE, LINEAR, MEMORY, OVERHEAD, Efficiency, Limit, Operator, Rates, estimate, spent

RATES = Rates("A board", {"float32": 1e9, "int8": 4e9}, 1e8, 1e6)
EFFICIENCY = Efficiency(dict.fromkeys(COMPUTING, 0.5), 0.25, 100)
CONV = Operator("conv", CONVOLUTION, 1_000_000, 100, 200, 300)
FC = Operator("fc", LINEAR, 10_000, 10_000, 100, 100)
ADD = Operator("conv", ELEMENTWISE, 0, 0, 200, 100)


def test_the_longer_of_arithmetic_and_bytes_and_the_start():
    assert spent(CONV, RATES, EFFICIENCY) == pytest.approx((2e6 / 5e8, 4 * 600 / 2.5e7, 1e-4))
    assert spent(FC, RATES, EFFICIENCY) == pytest.approx((2e4 / 5e8, 4 * 10_200 / 2.5e7, 1e-4))
    assert spent(Operator("fc", LINEAR, 10_000, 10_000, 100, 100, int8=True), RATES, EFFICIENCY) == pytest.approx((2e4 / 2e9, 10_200 / 2.5e7, 1e-4))
    found = estimate([CONV, ADD, FC], RATES, EFFICIENCY)
    assert [share.layer for share in found.layers] == ["conv", "fc"]
    assert found.seconds == pytest.approx(4e-3 + 1e-4 + 4.8e-5 + 1e-4 + 1.632e-3 + 1e-4)
    assert [share.bound for share in found.layers] == [COMPUTE, MEMORY]
    assert estimate([ADD], RATES, EFFICIENCY).layers[0].bound == OVERHEAD
    assert sum(found.bound().values()) == pytest.approx(found.seconds)


def test_weights_that_are_read_from_flash_take_its_bandwidth():
    slow = Rates("A microcontroller", {"float32": 1e9}, 1e8, 1e6, flash_bandwidth=1e7)
    assert spent(FC, slow, EFFICIENCY)[1] == pytest.approx(4 * 10_000 / 2.5e6 + 4 * 200 / 2.5e7)


def test_what_does_not_fit_and_which_limit_binds():
    found = estimate([FC], RATES, EFFICIENCY, [Limit("flash", 50, 100), Limit("RAM", 300, 200)])
    assert [limit.name for limit in found.limits] == ["RAM", "flash"] and not found.fits and found.limits[1].fits


def test_arithmetic_that_a_device_lacks_is_a_sentence():
    with pytest.raises(BadInput, match=r"^An NPU has no float32 arithmetic, which conv needs; it takes a recipe with 8-bit grids .*\.$"):
        estimate([CONV], Rates("An NPU", {"int8": 1e12}, 1e9, 1e9), EFFICIENCY)


def test_an_operator_comes_back_from_its_json():
    assert Operator.from_json(CONV.to_json()) == CONV
