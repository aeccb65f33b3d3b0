"""The registry: names are unique, listed in order, and an unknown one names what exists."""

import pytest

from core.errors import BadInput, UnknownName
from core.registry import Registry


@pytest.fixture
def fruits() -> Registry[int]:
    registry = Registry("fruit")
    registry.add("pear", 1)
    registry.add("apple", 2)
    return registry


def test_keeps_the_order_of_registration(fruits):
    assert list(fruits) == ["pear", "apple"]
    assert fruits.items() == [("pear", 1), ("apple", 2)]
    assert len(fruits) == 2 and "pear" in fruits and "plum" not in fruits


def test_a_duplicate_raises_at_once_and_changes_nothing(fruits):
    with pytest.raises(ValueError, match="two fruits are named 'pear'"):
        fruits.add("pear", 3)
    assert fruits.get("pear") == 1


def test_the_decorator_returns_what_it_registers(fruits):
    @fruits.register("fig")
    def fig():
        return 7

    assert fruits.get("fig") is fig and fig() == 7


@pytest.mark.parametrize("name", ["plum", "", None, 3, ["pear"], {"a": 1}])
def test_an_unknown_name_lists_the_choices(fruits, name):
    with pytest.raises(UnknownName) as raised:
        fruits.get(name)
    assert str(raised.value) == f"There is no fruit named {name!r}; it takes one of pear, apple."
    assert isinstance(raised.value, BadInput) and raised.value.exit_status == 2
    assert raised.value.choices == ["pear", "apple"]


def test_of_many_names_the_nearest_are_offered():
    registry = Registry("model")
    for number in range(40):
        registry.add(f"network_{number}", number)
    with pytest.raises(UnknownName, match=r"^There is no model named 'netwrk_17'; did you mean network_17"):
        registry.get("netwrk_17")
    with pytest.raises(UnknownName, match=r"there are 40, for example network_0, network_1, network_2\.$"):
        registry.get("zzz")
