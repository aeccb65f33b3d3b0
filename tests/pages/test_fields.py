"""Every step is drawn from its own fields: one widget a field, with its title and help, and what it is set to is what the step accepts."""

from __future__ import annotations

import pytest
from streamlit.testing.v1 import AppTest

import core.methods  # noqa: F401  (registers the steps)
from core.recipe import STEPS, Param, params
from core.silent import silenced
from tests.pages.test_explorer import asked_for, components, open_page


def drawn(name: str, given: dict) -> None:
    from core.recipe import STEPS
    from pages.ui import fields, state

    fields.draw(STEPS.get(name)(**given), "f", lambda field, value, phase: state.session().setdefault("told", []).append((field, value, phase)))


def page_of(name: str, given: dict) -> AppTest:
    page = AppTest.from_function(drawn, default_timeout=60, args=(name, given)).run()
    assert not page.exception
    return page


def widgets(page: AppTest) -> dict:
    return {widget.key: widget for kind in (page.toggle, page.text_input, page.selectbox, page.segmented_control) for widget in kind}


@pytest.mark.parametrize("name", list(STEPS))
def test_every_field_is_a_widget_that_gives_what_it_takes(name):
    kind = STEPS.get(name)
    given = {by[0]: by[1][0] for spec in params(kind) if (by := silenced(kind(), spec.name))}
    page, step = page_of(name, given), STEPS.get(name)(**given)
    sliders = {entry["key"]: entry for entry in components(page, "paretoscope_slider")}
    for spec in params(type(step)):
        value, key = getattr(step, spec.name), f"f-{spec.name}"
        if key in sliders:
            found = sliders[key]
            assert [found[fact] for fact in ("label", "help", "value")] == [spec.title, spec.help, value] and spec.low <= value <= spec.high
            if spec.stops:
                assert found["stops"] == list(spec.stops) and value in spec.stops
            else:
                assert [found[fact] for fact in ("low", "high", "step")] == [spec.low, spec.high, spec.step] and spec.step
            continue
        widget = widgets(page)[key if key in widgets(page) else f"{key}-on"]
        assert (widget.label, widget.help) == (spec.title, spec.help)
        shown, wanted = another(spec, value)
        widget.set_value(shown).run()
        assert not page.exception and page.session_state["session"]["told"][-1] == (spec.name, wanted, "release")
        assert spec.parse(wanted, spec.name) == wanted


def another(spec: Param, value) -> tuple[object, object]:
    """What a person sets the widget to, and the value that this means."""
    if spec.type is bool:
        return not value, not value
    if spec.choices:
        options = [None, *spec.choices] if spec.optional and None not in spec.choices else list(spec.choices)
        at = (options.index(value) + 1) % len(options)
        return at, options[at]
    if spec.type is str:
        return "features.*", "features.*"
    return True, spec.type(spec.low) if spec.start is None else spec.start  # switched on; its slider comes with it


@pytest.mark.parametrize(
    ("name", "field", "given"),
    [
        ("finetune", "memory_limit", {}), ("distill", "memory_limit", {"memory_limit": 20}), ("quantize", "group_size", {}),
        ("quantize", "activation_scale", {}), ("factorize", "energy", {"rank": 0.5}), ("magnitude_prune", "sparsity", {"threshold": 0.1}),
        ("entropy_prune", "images", {"granularity": "weight"}), ("channel_prune", "images", {"importance": "l1"}),
        ("channel_prune", "images", {"importance": "random"}),
    ],
)  # fmt: skip
def test_a_field_that_says_nothing_beside_the_others_is_not_drawn(name, field, given):
    page = page_of(name, given)
    assert not [key for key in widgets(page) if key.startswith(f"f-{field}")]
    assert not [entry for entry in components(page, "paretoscope_slider") if entry["key"] == f"f-{field}"]


def test_a_memory_limit_starts_where_it_limits_nothing():
    page = page_of("finetune", {"checkpoint_activations": True, "memory_limit": 20})
    (slider,) = [entry for entry in components(page, "paretoscope_slider") if entry["key"] == "f-memory_limit"]
    assert slider["value"] == 20 and (slider["texts"][0], slider["texts"][-1]) == ("1 MB", "100,000 MB")


@pytest.mark.parametrize("name", ["share_weights", "student"])
def test_a_step_is_added_and_opened_in_its_chip(notes, name):
    page = open_page(step=["calibrate_batchnorm"])
    page.session_state["add-step"] = True
    page.run()
    offered = {button.key.removeprefix("add-") for button in page.button if button.key and button.key.startswith("add-")}
    assert set(STEPS) <= offered
    page.button(key=f"add-{name}").click().run()
    at = next(at for at, step in enumerate(asked_for(page, "step")) if step.startswith(name))
    page.session_state[f"chip-{at}"] = True
    page.run()
    assert not page.exception and page.button(key=f"remove-{at}")
    page.button(key=f"remove-{at}").click().run()
    assert asked_for(page, "step") == ["calibrate_batchnorm"]


def test_a_field_that_spans_decades_is_drawn_over_its_stops(notes):
    """Switched on it stands at 0; a link's number goes to the nearest stop, however small, and says so."""
    page = open_page(step=["gradient_prune~threshold~3e-9"])
    page.session_state["chip-0"] = True
    page.run()
    (drawn,) = [entry for entry in components(page, "paretoscope_slider") if entry["key"].endswith("-threshold")]
    assert drawn["stops"][:4] == [0, 1e-10, 2e-10, 5e-10] and drawn["stops"][-1] == 10 and drawn["texts"][1] == "1e-10"
    assert drawn["value"] == 2e-09 and asked_for(page, "step") == ["gradient_prune~threshold~2e-09"]
