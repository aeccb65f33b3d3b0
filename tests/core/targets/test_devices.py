"""Profiles: the shipped ones are whole and their arithmetic is right; what cannot be one is refused in a sentence; the command."""

import copy
import json
import re

import pytest

from core.__main__ import main
from core.errors import BadInput
from core.targets import devices, measured_there
from core.targets.devices import Device, checked, to_json
from core.targets.graphs import shipped

UNITS = {"T": 1e12, "G": 1e9, "M": 1e6}
PROFILE = {
    "name": "my_board", "title": "My board", "kind": "board", "processor": "4 × Cortex-A55", "cores": 4, "weights_in_flash": False,
    "figures": {
        "clock": {"value": 1.8e9, "how": "1.8 GHz", "sources": [0]}, "float32": {"value": 57.6e9, "how": "4 × 1.8 GHz × 8", "sources": [0]},
        "bandwidth": {"value": 8e9, "how": "32 bits", "sources": [0]}, "ram": {"value": 2**31, "how": "2 GB", "sources": [0]},
        "flash": {"value": 8e9, "how": "8 GB", "sources": [0]},
    },
    "sources": [{"title": "Data sheet", "address": "https://example.org/sheet.pdf"}],
}  # fmt: skip


def changed(**paths):
    """The profile with some values replaced, by dotted path; None takes the value away."""
    made = copy.deepcopy(PROFILE)
    for path, value in paths.items():
        *way, last = path.split("__")
        at = made
        for name in way:
            at = at[name]
        if value is None:
            del at[last]
        else:
            at[last] = value
    return made


def test_a_dozen_devices_of_every_class_are_shipped(home):
    known = [device for _name, device in devices.devices().items()]
    assert len(known) >= 12 and {device.kind for device in known} == set(devices.KINDS) and sum(device.kind == "phone" for device in known) == 3
    assert {"raspberry_pi_4", "raspberry_pi_5", "jetson_nano", "coral_edge_tpu", "esp32", "browser_wasm"} <= {device.name for device in known}
    for device in known:
        assert (devices.SHIPPED / f"{device.name}.json").exists() and not device.own
        assert checked(to_json(device)) == device
        for figure in device.figures.values():
            assert figure.how and figure.sources
        assert set(device.figures) & set(devices.TYPES)


@pytest.mark.parametrize("path", sorted(devices.SHIPPED.glob("*.json")), ids=lambda path: path.stem)
def test_the_arithmetic_that_a_figure_tells_gives_the_figure(path):
    """`4 cores × 1.5 GHz × 8 FLOP/cycle (…) = 48 GFLOP/s`: the factors give the result, and the result is the value."""
    for figure in devices.read(path).figures.values():
        if " = " not in figure.how:
            continue
        left, right = figure.how.rpartition(": ")[2].split(" = ")
        (first, *rest) = re.split(r" ([×/]) ", left)
        product = number(first)
        for sign, factor in zip(rest[::2], rest[1::2], strict=True):
            product = product * number(factor) if sign == "×" else product / number(factor)
        told = re.match(r"([\d.]+) ([TGM])", right)
        assert product == pytest.approx(figure.value, rel=0.02) == float(told[1]) * UNITS[told[2]], figure.how


def number(factor: str) -> float:
    """`1.5 GHz`, `3,200 MT/s`, `158.5 Mop/s`, `8 FLOP/cycle`."""
    found = re.match(r"([\d.,]+)(?: ([TGM])(?:Hz|T/s|B/s|op/s))?", factor)
    return float(found[1].replace(",", "")) * UNITS.get(found[2], 1)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (changed(figures__ram=None), "The figure ram is missing; it takes a number of bytes from 1000 to 1e+14."),
        (changed(figures__clock__value=-5), "clock cannot be -5; it takes a number of cycles/s from 1e+06 to 1e+10."),
        (changed(figures__bandwidth__value=1e20), "bandwidth cannot be 1e+20; it takes a number of bytes/s from 1e+06 to 1e+13."),
        (changed(figures__flash__value=float("nan")), "flash cannot be nan; it takes a number of bytes from 1000 to 1e+15."),
        (changed(figures__flash__value=10**400), f"flash cannot be 1{56 * '0'}…; it takes a number of bytes from 1000 to 1e+15."),
        (changed(figures__ram__value=True), "ram cannot be True; it takes a number of bytes from 1000 to 1e+14."),
        (changed(figures__float32__value=9e15), "float32 cannot be 9000000000000000.0; it takes at most 7.2e+14 operations/s, which is 100000 for each of 4 "
         "cores and each cycle."),
        (changed(figures__float32=None), "A peak rate is missing; it takes operations/s as float32, as int8, or both."),
        (changed(figures__clock__sources=[]), "the sources of clock cannot be []; it takes a list of places in the list of sources, from 0 to 0."),
        (changed(figures__clock__unconfirmed=""), "unconfirmed of clock cannot be ''; it takes a text of 1 to 200 characters."),
        (changed(figures__float16={"value": 9e15, "how": "x", "sources": [0]}), "float16 cannot be 9000000000000000.0; it takes at most 7.2e+14 operations/s, "
         "which is 100000 for each of 4 cores and each cycle."),
        (changed(figures__clock__sources=[3]), "the sources of clock cannot be [3]; it takes a list of places in the list of sources, from 0 to 0."),
        (changed(sources=[{"title": "x", "address": "file:///etc"}]), "address cannot be 'file:///etc'; it takes an address that begins with https:// or http://."),
        (changed(name="../x"), "name cannot be '../x'; it takes 1 to 40 small letters, digits and underscores."),
        (changed(cores=0), "cores cannot be 0; it takes a whole number from 1 to 1,024."),
        (changed(kind="toaster"), "kind cannot be 'toaster'; it takes one of phone, board, accelerator, microcontroller, browser, server."),
        (changed(colour="red"), f"A device's profile has no field named 'colour'; it takes {', '.join(devices.KEYS)}."),
        ([1], f"A device's profile is an object with the keys {', '.join(devices.KEYS)}, not [1]."),
    ],
)  # fmt: skip
def test_what_cannot_be_a_device_is_said_in_a_sentence(profile, said):
    with pytest.raises(BadInput) as refused:
        checked(profile)
    assert str(refused.value) == said


def test_a_profile_of_ones_own(home, tmp_path, capsys):
    file = tmp_path / "board.json"
    file.write_text(json.dumps(PROFILE))
    assert main(["devices", "--add", str(file), "--device", "my_board"]) == 0
    assert "https://example.org/sheet.pdf" in capsys.readouterr().out
    mine = devices.devices().get("my_board")
    assert mine.own and mine.rates().operations == {"float32": 57.6e9 / 4}
    assert [limit.needed for limit in mine.limits(1000, 50)] == [1000, 1050]
    devices.remove("my_board")
    assert "my_board" not in devices.devices()
    with pytest.raises(BadInput, match=r"^The device 'esp32' is a shipped one; only a profile of your own "):
        devices.remove("esp32")
    file.write_text(json.dumps(PROFILE | {"name": "esp32"}))
    assert main(["devices", "--add", str(file)]) == 2 and capsys.readouterr().err == "There is a shipped device named 'esp32'; it takes another name.\n"
    file.write_text("{")
    assert main(["devices", "--add", str(file)]) == 2 and "is not JSON" in capsys.readouterr().err
    assert main(["devices", "--add", str(tmp_path)]) == 2 and "cannot be read" in capsys.readouterr().err


def test_what_no_source_confirms_is_said_beside_the_figure(home, capsys):
    server = devices.devices().get("server_core")
    assert server.unconfirmed == ["float32", "int8", "bandwidth"]
    assert main(["devices", "--device", "server_core"]) == 0
    assert "    not confirmed: the second of the two units\n" in capsys.readouterr().out
    doubted = changed(figures__clock__sources=[], figures__clock__unconfirmed="the clock")
    assert checked(doubted).unconfirmed == ["clock"] and checked(to_json(checked(doubted))) == checked(doubted)
    assert devices.devices().get("raspberry_pi_5").unconfirmed == []


def test_a_file_of_ones_own_that_was_damaged_is_named(home, capsys):
    place = home / "devices" / "mine.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(changed(figures__ram=None)))
    assert main(["devices"]) == 2
    assert capsys.readouterr().err.startswith(f"The file '{place}' is no profile any more, so mend or remove it: The figure ram is missing; ")
    place.unlink()
    (home / "devices" / "measured.jsonl").write_text('{"device": "esp32"}\n')
    with pytest.raises(BadInput, match=r"measured\.jsonl' is damaged; it takes the lines that `devices --measured` keeps there, so mend or remove it\.$"):
        measured_there.lines()


def test_a_microcontroller_keeps_weights_in_flash(home):
    small: Device = devices.devices().get("cortex_m4_nrf52840")
    assert [(limit.name, limit.needed, limit.fits) for limit in small.limits(900_000, 300_000)] == [("flash", 900_000, True), ("RAM", 300_000, False)]


def test_the_command_lists_and_refuses(home, capsys):
    assert main(["devices", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert len(told["devices"]) == len(devices.devices()) and 0 < told["host"]["median_error"] < 0.5
    for wrong, said in (
        (["--device", "esp33"], "There is no device named 'esp33'; did you mean"),
        (["--estimate", "--model", "resnet18"], "--dataset is missing; --estimate takes --model, --dataset and --recipe."),
        (["--model", "resnet18"], "--model is for an estimate; it takes --estimate beside it."),
        (["--measured", "/nowhere"], "The file '/nowhere' cannot be read"),
        (["--ship"], "--ship says where a fit is kept; it takes --fit beside it."),
    ):
        assert main(["devices", *wrong]) == 2
        assert capsys.readouterr().err.startswith(said)


@pytest.mark.skipif(not shipped(), reason="the shipped graphs are made by `python -m core gallery --graphs`")
def test_an_estimate_on_the_command_line(home, tmp_path, capsys):
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"steps": []}')
    given = ["devices", "--estimate", "--model", "squeezenet1_1", "--dataset", "fashion_mnist", "--recipe", str(recipe)]
    assert main([*given, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = {entry["device"]: entry for entry in told["estimates"]}
    assert told["file_bytes_provenance"] == "measured" and told["activation_bytes"] == 4 * 17536
    assert found["coral_edge_tpu"]["ms"] is None and "has no float32 arithmetic" in found["coral_edge_tpu"]["problem"]
    assert found["phone_flagship"]["ms"] < found["raspberry_pi_4"]["ms"] < found["cortex_m7_stm32h743"]["ms"]
    assert not found["rp2040"]["fits"] and found["raspberry_pi_4"]["fits"] and found["esp32"]["limits"][0]["name"] == "flash"
    assert all(entry["validated"] == "unvalidated on this device" and entry["provenance"] == "estimated" for entry in found.values())
    assert main([*given, "--device", "raspberry_pi_4"]) == 0
    assert "Unvalidated on this device." in capsys.readouterr().out
