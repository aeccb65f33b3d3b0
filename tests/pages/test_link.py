"""Links: what is shown comes back from its address, and what cannot be is replaced with a sentence."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.charts import AXES
from core.lessons.students import SEEDS
from core.recipe import STEPS, Recipe, params
from pages.ui import choices, link
from pages.ui.choices import Choices
from pages.ui.link import View, decode, encode
from pages.ui.looked_at import PICTURES, WORDS, LookedAt


def values(spec):
    """Values of a field that a slider or box can be set to."""
    if spec.choices:
        made = st.sampled_from(spec.choices)
    elif spec.type is bool:
        made = st.booleans()
    elif spec.type is str:
        made = st.text(string.ascii_letters + "*., ~%&=+#/", max_size=30)
    elif spec.stops:
        made = st.sampled_from(spec.stops)
    else:
        made = st.integers(0, round((spec.high - spec.low) / spec.step)).map(lambda at: link.snap(spec, spec.low + at * spec.step))
    return st.none() | made if spec.optional else made


@st.composite
def steps(draw):
    step_type = STEPS.get(draw(st.sampled_from(["magnitude_prune", "quantize", "calibrate_batchnorm", "finetune"])))
    return step_type(**{spec.name: draw(values(spec)) for spec in params(step_type)})


LESSONS = st.builds(
    Choices, student=st.sampled_from(["resnet18", "squeezenet1_1"]), seed=st.sampled_from(SEEDS), picture=st.integers(0, choices.MOST_PICTURES - 1),
    **{name: values(choices.field(name)) for name in choices.FIELDS},
)  # fmt: skip
VIEWS = st.builds(
    View, model=st.sampled_from(["resnet18", "squeezenet1_1"]), dataset=st.sampled_from(["fashion_mnist", "digits"]),
    recipe=st.builds(Recipe, st.lists(steps(), max_size=4).map(tuple), st.integers(0, 1000)), x=st.sampled_from(list(AXES)),
    third=st.none() | st.sampled_from(list(AXES)), three_d=st.booleans(), all_models=st.booleans(), accuracy=st.none() | st.integers(0, 100).map(float),
    kilobytes=st.none() | st.integers(1, 9999).map(float), latency=st.none() | st.integers(1, 40).map(lambda at: at / 20),
    pins=st.lists(st.text("abcdef0123456789/", min_size=1, max_size=20), max_size=4, unique=True).map(tuple), lesson=LESSONS,
    device=st.sampled_from(["raspberry_pi_4", "esp32"]),
    looked_at=st.builds(LookedAt, method=st.sampled_from(["", "quantize"]), layer=st.sampled_from(["", "fc"]), pictures=st.sampled_from(PICTURES)),
)  # fmt: skip


LESSON = [*choices.FIELDS, "student", "student-seed", "picture", "rate"]


@given(VIEWS)
def test_a_view_comes_back_from_its_link(view):
    restored, said = decode(encode(view))
    assert restored == view and said == []


@given(
    st.dictionaries(
        st.sampled_from([*encode(View()), "x", "size", "view", "front", "accuracy", "pin", "seed", *LESSON, *WORDS.values()]),
        st.lists(st.text(max_size=40), max_size=4),
    )
)
def test_no_link_can_break_the_page(query):
    view, said = decode(query)
    assert decode(encode(view)) == (view, [])
    assert all(sentence[-1] == "." for sentence in said)


def test_a_bare_address_is_the_opening_view():
    view, said = decode({})
    assert view == View() and said == []
    assert [step.name for step in view.recipe.steps] == ["magnitude_prune", "quantize", "calibrate_batchnorm"]


def test_off_step_values_are_snapped_and_said():
    view, said = decode({"step": ["magnitude_prune~sparsity~0.8034"]})
    assert view.recipe.steps[0].sparsity == 0.8
    assert said == ["Sparsity 0.8034 is not one of the slider's positions; 0.8 is used instead."]
    view, said = decode({"step": ["quantize~weight_bits~9"]})
    assert view.recipe.steps[0].weight_bits == 8 and "8 is used" in said[0]
    view, said = decode({"step": ["magnitude_prune~sparsity~7"]})
    assert view.recipe.steps[0].sparsity == 0.99 and "out of range" in said[0]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"model": ["resnet99"]}, "resnet99"),
        ({"data": ["imagenet"]}, "imagenet"),
        ({"step": ["squash~by~2"]}, "squash"),
        ({"step": ["quantize~depth~2"]}, "depth"),
        ({"step": ["magnitude_prune~sparsity~NaN"]}, "sparsity"),
        ({"step": ["quantize", "channel_prune"]}, "before quantize"),
        ({"x": ["sideways"]}, "sideways"),
        ({"accuracy": ["much"]}, "accuracy"),
        ({"kilobytes": ["-3"]}, "kilobytes"),
        ({"student": ["resnet99"]}, "resnet99"),
        ({"temperature": ["warm"]}, "temperature"),
        ({"width": ["0.52"]}, "0.5 is used"),
        ({"student-seed": ["7"]}, "seed"),
        ({"picture": ["-1"]}, "picture"),
        ({"sensitivity": ["finetune"]}, "no sensitivity to 'finetune'"),
        ({"map-pictures": ["7"]}, "it takes one of 250, 500, 1000, all"),
    ],
)
def test_what_cannot_be_is_replaced_with_a_sentence(query, words):
    view, said = decode(query)
    assert len(said) == 1 and words in said[0]
    assert isinstance(view, View)


def test_no_steps_is_a_recipe_too():
    assert decode({"step": ["none"]})[0].recipe == Recipe()


def test_budgets_are_limits_in_the_units_of_the_rows():
    limits = View(accuracy=90.0, kilobytes=100.0, latency=0.5).limits()
    assert [(limit.objective, limit.direction, limit.value) for limit in limits] == [
        ("top1", "max", 90.0), ("artifact_bytes", "min", 100_000.0), ("ratio", "min", 0.5),
    ]  # fmt: skip
