"""Steps and recipes: canonical JSON, keys, and one sentence for everything that is not a recipe."""

import dataclasses
import hashlib
import json
import math
import random

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import core.methods  # noqa: F401  (registers the steps)
from core import zoo
from core.errors import BadField, BadInput, BadRecipe, UnknownName
from core.methods.magnitude_prune import MagnitudePrune
from core.methods.quantize import Quantize
from core.recipe import MAX_JSON_BYTES, MAX_SEED, MAX_STEPS, STEPS, STRUCTURE, Param, Recipe, Step, check_order, param, params, step_from_json
from core.work import Work

EXAMPLE = '{"seed": 7, "steps": [{"step": "magnitude_prune", "sparsity": 0.9}, {"step": "quantize", "weight_bits": 3}]}'
EVERY_STEP = [step_type for _name, step_type in STEPS.items()]


def values_of(spec: Param):
    """What a field accepts, as a hypothesis strategy."""
    if spec.choices:
        accepted = st.sampled_from(spec.choices)
    elif spec.type is bool:
        accepted = st.booleans()
    elif spec.type is str:
        accepted = st.text(max_size=500)
    elif spec.type is int:
        accepted = st.integers(int(spec.low), int(spec.high))
    else:
        accepted = st.floats(spec.low, spec.high)
    return st.none() | accepted if spec.optional else accepted


@st.composite
def steps_as_json(draw):
    """A step with some of its fields given and the others left to their defaults."""
    step_type = draw(st.sampled_from(EVERY_STEP))
    given_fields = {spec.name: draw(values_of(spec)) for spec in params(step_type) if draw(st.booleans())}
    return {"step": step_type.name} | given_fields


keys = st.text(max_size=12) | st.sampled_from(["step", "steps", "seed", "sparsity"])
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


def is_a_sentence(error: BadInput) -> bool:
    text = str(error)
    return text.endswith(".") and "\n" not in text and len(text) < 700 and error.exit_status == 2


def test_parses_fills_in_defaults_and_gives_the_same_back():
    recipe = Recipe.parse(EXAMPLE)
    assert recipe == Recipe((MagnitudePrune(sparsity=0.9), Quantize(weight_bits=3)), seed=7)
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert recipe.to_json()["steps"][0] == {"step": "magnitude_prune", "sparsity": 0.9, "threshold": None, "scope": "global", "layers": "all"}


def test_the_empty_recipe_is_one():
    assert Recipe.parse("{}") == Recipe() == Recipe.from_json({"steps": [], "seed": 0})


def test_canonical_text_is_sorted_compact_json_whatever_was_left_out():
    spelled_out = {"seed": 7, "steps": [{"layers": "all", "step": "magnitude_prune", "scope": "global", "sparsity": 0.9, "threshold": None}]}
    short = Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": 0.9}], "seed": 7})
    assert Recipe.from_json(spelled_out).canonical() == short.canonical() == json.dumps(spelled_out, sort_keys=True, separators=(",", ":"))


def test_the_key_is_blake2b_of_the_canonical_text():
    recipe = Recipe.parse(EXAMPLE)
    assert recipe.key() == hashlib.blake2b(recipe.canonical().encode(), digest_size=8).hexdigest()


def test_whole_numbers_given_as_floats_are_the_same_recipe():
    as_float = Recipe.parse('{"steps": [{"step": "quantize", "weight_bits": 4.0}, {"step": "calibrate_batchnorm", "images": 1e3}]}')
    as_int = Recipe.parse('{"steps": [{"step": "quantize", "weight_bits": 4}, {"step": "calibrate_batchnorm", "images": 1000}]}')
    assert as_float.key() == as_int.key()


def test_minus_zero_is_zero():
    minus, plain = (Recipe.from_json({"steps": [{"step": "magnitude_prune", "sparsity": zero}]}) for zero in (-0.0, 0.0))
    assert minus == plain and minus.canonical() == plain.canonical() and minus.key() == plain.key()


def test_keys_differ_by_step_field_seed_and_order():
    prune, quantize = MagnitudePrune(), Quantize()
    recipes = [
        Recipe(), Recipe(seed=1), Recipe((prune,)), Recipe((quantize,)), Recipe((prune, quantize)), Recipe((quantize, prune)),
        Recipe((MagnitudePrune(sparsity=0.81),)), Recipe((prune, prune)),
    ]  # fmt: skip
    assert len({recipe.key() for recipe in recipes}) == len(recipes)


def test_a_prefix_keeps_the_seed():
    recipe = Recipe.parse(EXAMPLE)
    assert recipe.prefix(1) == Recipe((MagnitudePrune(sparsity=0.9),), seed=7)
    assert recipe.prefix(0) == Recipe(seed=7) and recipe.prefix(2) == recipe


@pytest.mark.slow
@given(st.lists(steps_as_json(), max_size=5), st.integers(0, MAX_SEED))
def test_every_valid_recipe_survives_its_own_canonical_text(steps, seed):
    try:
        recipe = Recipe.from_json({"steps": steps, "seed": seed})
    except BadInput as error:  # an order that cannot work, or a text that names nothing
        assert is_a_sentence(error)
        return
    again = Recipe.parse(recipe.canonical())
    assert again == recipe and again.canonical() == recipe.canonical() and again.key() == recipe.key()


@given(anything)
@example({"seed": 10**400})
@example({"seed": 0, "steps": [{"step": "magnitude_prune", "sparsity": 10**400}]})
@example({"steps": [{"step": "quantize", "weight_bits": math.nan}]})
@example({"steps": [{"step": "calibrate_batchnorm", "images": math.inf}]})
@example({"steps": [{"step": ["quantize"]}]})
@example({"steps": {"step": "quantize"}})
def test_any_json_value_is_a_recipe_or_a_sentence(value):
    try:
        recipe = Recipe.from_json(value)
    except BadInput as error:
        assert is_a_sentence(error)
    else:
        assert Recipe.parse(recipe.canonical()) == recipe


@given(st.sampled_from(EVERY_STEP), st.data())
def test_any_value_in_any_field_is_accepted_in_its_range_or_refused_by_name(step_type, data):
    spec = data.draw(st.sampled_from(params(step_type)))
    value = data.draw(anything)
    try:
        step = step_from_json({"step": step_type.name, spec.name: value})
    except BadField as error:
        assert is_a_sentence(error) and str(error).startswith(f"{step_type.name}.")
    else:
        taken = getattr(step, spec.name)
        assert taken == value and (taken is None or type(taken) is spec.type or taken in spec.choices)
        if spec.low is not None and taken is not None and not spec.choices:
            assert spec.low <= taken <= spec.high


@given(st.binary(max_size=200))
@example(b"\xff\xfe")
@example(b"[" * 60_000)
@example(b'{"a":' * 12_000)
@example(b"9" * 60_000)
@example(b'"\\ud800"')
@example(b'{"seed": NaN}')
@example(b'{"seed": Infinity}')
def test_any_bytes_are_a_recipe_or_a_sentence(data):
    try:
        Recipe.parse(data)
    except BadInput as error:
        assert is_a_sentence(error)


def test_damaged_recipes_are_refused_with_a_sentence():
    rng = random.Random(0)
    text = EXAMPLE.encode()
    for _ in range(500):
        damaged = bytearray(text)
        damaged[rng.randrange(len(text))] = rng.randrange(256)
        del damaged[rng.randrange(len(text)) :: rng.choice((1, len(text)))]
        try:
            Recipe.parse(bytes(damaged))
        except BadInput as error:
            assert is_a_sentence(error)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", 'The recipe is not JSON (line 1, column 2); it takes the form {"seed": 0, "steps": […]}.'),
        ("[]", 'A recipe is an object with "steps" and "seed", not [].'),
        ('{"stepz": []}', 'A recipe has no key \'stepz\'; it takes "seed" and "steps".'),
        ('{"steps": 3}', '"steps" is 3; it takes a list of steps.'),
        ('{"steps": [3]}', 'Step 1 is 3; a step is an object such as {"step": "quantize", "weight_bits": 4}.'),
        ('{"steps": [{"step": "quantize"}, {}]}', f'Step 2 has no "step" key; it takes one of {", ".join(STEPS)}.'),
        ('{"steps": [{"step": "quantise"}]}', "There is no step named 'quantise'; did you mean quantize or equalize."),
        ('{"steps": [{"step": "magnitude_prune", "sparsity": 1.5}]}', "magnitude_prune.sparsity cannot be 1.5; it takes a number from 0 to 0.99."),
        ('{"steps": [{"step": "magnitude_prune", "sparsity": true}]}', "magnitude_prune.sparsity cannot be True; it takes a number from 0 to 0.99."),
        ('{"steps": [{"step": "magnitude_prune", "sparsity": NaN}]}', "magnitude_prune.sparsity cannot be nan; it takes a number from 0 to 0.99."),
        ('{"steps": [{"step": "magnitude_prune", "bits": 4}]}', "magnitude_prune has no field named 'bits'; it takes sparsity, threshold, scope, layers."),
        ('{"steps": [{"step": "magnitude_prune", "scope": "x"}]}', 'magnitude_prune.scope cannot be \'x\'; it takes one of "global", "layer".'),
        ('{"steps": [{"step": "quantize", "weight_bits": 9}]}', "quantize.weight_bits cannot be 9; it takes one of 2, 3, 4, 5, 6, 7, 8, 16."),
        ('{"steps": [{"step": "quantize", "symmetric": 1}]}', "quantize.symmetric cannot be 1; it takes true or false."),
        ('{"seed": -1}', f"seed cannot be -1; it takes a whole number from 0 to {MAX_SEED}."),
        ('{"seed": 1.0}', f"seed cannot be 1.0; it takes a whole number from 0 to {MAX_SEED}."),
    ],
)
def test_the_sentence_names_the_value_and_what_is_accepted(text, sentence):
    with pytest.raises(BadInput) as raised:
        Recipe.parse(text)
    assert str(raised.value) == sentence


def test_more_steps_or_bytes_than_the_limits_are_refused():
    steps = [{"step": "calibrate_batchnorm"}] * MAX_STEPS
    assert len(Recipe.from_json({"steps": steps}).steps) == MAX_STEPS
    with pytest.raises(BadRecipe, match=f"has {MAX_STEPS + 1} steps; at most {MAX_STEPS}"):
        Recipe.from_json({"steps": [*steps, steps[0]]})
    with pytest.raises(BadRecipe, match="bytes long; at most 65,536"):
        Recipe.parse(" " * (MAX_JSON_BYTES + 1))
    assert Recipe.parse("{}" + " " * (MAX_JSON_BYTES - 2)) == Recipe()


def test_a_structural_step_after_a_grid_is_refused_with_the_order_that_works():
    @dataclasses.dataclass(frozen=True)
    class Cut(Step):
        name, title, kind = "cut", "Cut", STRUCTURE

    check_order((Cut(), MagnitudePrune(), Quantize()))
    with pytest.raises(BadRecipe, match=r"^cut cannot follow quantize, .* put cut before quantize\.$"):
        check_order((Quantize(), Cut()))
    with pytest.raises(BadRecipe):
        Recipe(("quantize",))


@pytest.mark.parametrize(
    ("names", "refusal"),
    [
        ("quantize correct_bias calibrate_batchnorm", None),
        ("quantize round_adaptively correct_bias finetune", None),
        ("calibrate_batchnorm finetune quantize correct_bias", None),
        ("quantize calibrate_batchnorm quantize correct_bias", None),  # the second grid takes what is there for exact
        ("quantize calibrate_batchnorm correct_bias", "correct_bias cannot follow calibrate_batchnorm, .* between quantize and calibrate_batchnorm"),
        ("share_weights finetune correct_bias", "correct_bias cannot follow finetune, .* between share_weights and finetune"),
        ("share_weights distill binarize correct_bias", "correct_bias cannot follow distill, .* between share_weights and distill"),  # binarize: inner layers
        ("quantize correct_bias correct_bias", "correct_bias cannot follow correct_bias, .* once is enough"),
    ],
)
def test_correct_bias_is_refused_where_something_else_made_up_for_rounding(names, refusal):
    steps = [{"step": name} for name in names.split()]
    if refusal is None:
        assert len(Recipe.from_json({"steps": steps}).steps) == len(steps)
    else:
        with pytest.raises(BadRecipe, match=refusal):
            Recipe.from_json({"steps": steps})


def test_a_step_is_checked_however_it_is_made_and_cannot_be_changed():
    with pytest.raises(BadField, match=r"^quantize\.weight_bits"):
        Quantize(weight_bits=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Quantize().weight_bits = 8
    with pytest.raises(UnknownName):
        step_from_json({"step": "Quantize"})


def test_a_field_takes_its_type_from_its_default_or_its_first_choice():
    @dataclasses.dataclass(frozen=True)
    class Sample(Step):
        name, title, kind = "sample", "Sample", "prune"
        share: float = param(0.5, 0.0, 1.0)
        count: int = param(3, 1, 9, unit="pictures")
        bits: int | None = param(None, choices=(4, 8), optional=True)
        limit: float | None = param(None, 0.0, 2.0, optional=True, title="At most")

    found = {spec.name: spec for spec in params(Sample)}
    assert [spec.type for spec in found.values()] == [float, int, int, float]
    assert [spec.title for spec in found.values()] == ["Share", "Count", "Bits", "At most"]
    assert type(Sample(share=1).share) is float and type(Sample(count=2.0).count) is int
    assert found["bits"].accepted == "one of 4, 8, or null"
    assert found["limit"].accepted == "a number from 0 to 2, or null"
    with pytest.raises(BadField):
        Sample(count=2.5)
    with pytest.raises(BadField):
        Sample(share=None)


@pytest.mark.parametrize("step_type", EVERY_STEP, ids=lambda step_type: step_type.name)
def test_every_registered_step_says_what_its_fields_are(step_type):
    assert step_type.title and step_type.__doc__ and step_type().to_json()["step"] == step_type.name
    for spec in params(step_type):
        assert spec.help.endswith("."), f"{step_type.name}.{spec.name} has no sentence of help"
        assert spec.parse(spec.default, spec.name) == spec.default
        if not spec.choices and spec.type in (int, float):
            assert spec.low < spec.high and (spec.step and spec.step > 0 or spec.stops == tuple(sorted(set(spec.stops))) != ())


def recipe_of(*steps) -> Recipe:
    return Recipe(tuple(step_from_json({"step": step} if isinstance(step, str) else step) for step in steps))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        (["share_weights", "quantize"], "share_weights is undone by quantize, because quantize puts the weights on a grid of its own; keep one of the two"),
        (["quantize", "finetune", "cast"], "quantize is undone by cast, because cast puts"),
        (
            ["magnitude_prune", "factorize"],
            "magnitude_prune is undone by factorize, because factorize fills scattered zeros in; put magnitude_prune after factorize.",
        ),
        (
            ["calibrate_batchnorm", "distill"],
            "calibrate_batchnorm is undone by distill, because distill averages the statistics anew; put calibrate_batchnorm after",
        ),
        (["calibrate_batchnorm", "random_prune"], "calibrate_batchnorm is undone by random_prune, because random_prune changes the weights"),
        (["calibrate_batchnorm", "calibrate_batchnorm"], "the later one averages the statistics anew; leave one of the two out."),
        (["quantize", "correct_bias", "calibrate_batchnorm"], "correct_bias is undone by calibrate_batchnorm, because"),
        (["quantize", "round_adaptively", "finetune"], "round_adaptively is undone by finetune, because finetune rounds the weights to nearest again"),
        (["nm_prune", "channel_prune"], "nm_prune is undone by channel_prune, because channel_prune takes inputs out of the groups of 4; put nm_prune after"),
        (["student", "quantize"], "student leaves its weights random, because no training follows; put a distill or finetune step after it."),
    ],
)
def test_an_order_that_undoes_a_step_is_warned_of_in_a_sentence(steps, sentence):
    (said,) = recipe_of(*steps).warnings()
    assert sentence in said and said.endswith(".") and said.count(". ") == 0


@pytest.mark.parametrize(
    "steps",
    [
        [], ["magnitude_prune", "quantize", "calibrate_batchnorm"], ["channel_prune", "finetune", "calibrate_batchnorm", "quantize"],
        ["factorize", "magnitude_prune", "distill", "share_weights"], ["student", "distill", "quantize", "correct_bias"],
        ["quantize", "finetune", "round_adaptively"],
        [{"step": "entropy_prune", "granularity": "filter"}, "factorize"], ["contribution_prune", "factorize"],
        [{"step": "binarize", "layers": "layer1.*"}, {"step": "quantize", "layers": "layer2.*"}], ["equalize", "quantize", "calibrate_batchnorm"],
    ],
)  # fmt: skip
def test_orders_that_keep_every_step_are_not_warned_of(steps):
    assert recipe_of(*steps).warnings() == []


def test_patterns_of_layers_meet_where_they_name_the_same_weights():
    overlapping = recipe_of({"step": "binarize", "layers": "layer1.*"}, {"step": "quantize", "layers": "layer1.0.conv1, fc"})
    apart = recipe_of({"step": "binarize", "layers": "inner"}, {"step": "quantize", "layers": "conv1, fc"})
    names = zoo.models()["resnet18"]["weights"]
    assert overlapping.warnings() == apart.warnings() == [] and apart.warnings(names) == []
    assert overlapping.warnings(names) == Work("resnet18", "digits", overlapping).warnings() != []


def test_patterns_of_factors_are_compared_as_well():
    steps = [{"step": "factorize", "layers": "fc"}, {"step": "share_weights", "layers": "fc.0"}, {"step": "quantize", "layers": "fc.1"}]
    assert Work("resnet18", "digits", recipe_of(*steps)).warnings() == []
    (said,) = Work("resnet18", "digits", recipe_of(*steps[:2], steps[2] | {"layers": "fc.*"})).warnings()
    assert said.startswith("share_weights is undone by quantize, because")


@pytest.mark.parametrize(
    ("model", "steps", "sentence"),
    [
        ("squeezenet1_1", ["calibrate_batchnorm"], "calibrate_batchnorm changes nothing, because squeezenet1_1 has no batch norm."),
        ("resnet18", [{"step": "student", "model": "vgg11"}, "distill", "calibrate_batchnorm"], "calibrate_batchnorm changes nothing, because vgg11 has no"),
        ("resnet18", ["correct_bias", "quantize"], "correct_bias changes nothing, because no step before it puts weights on a grid."),
        ("resnet18", ["round_adaptively"], "round_adaptively changes nothing, because no step before it puts weights on a uniform grid."),
        (
            "resnet18",
            [{"step": "gradient_prune"}, {"step": "gradient_prune", "score": "snip", "sparsity": 0.5}],
            "gradient_prune changes nothing, because gradient",
        ),
        ("resnet18", ["share_weights", "round_adaptively"], "round_adaptively changes nothing, because no step before it puts weights on a uniform grid."),
        ("resnet18", [{"step": "quantize", "parameters": "biases"}, "correct_bias"], "correct_bias changes nothing, because no step before it puts weights on"),
        ("resnet18", ["magnitude_prune", {"step": "magnitude_prune", "sparsity": 0.5}], "magnitude_prune changes nothing, because magnitude_prune before it"),
        ("resnet18", ["magnitude_prune", {"step": "random_prune", "sparsity": 0.5}], "random_prune changes nothing, because magnitude_prune before it"),
    ],
)
def test_a_step_that_changes_nothing_of_the_model_is_warned_of(model, steps, sentence):
    assert sentence in Work(model, "digits", recipe_of(*steps)).warnings()[0]


def test_pruning_further_or_after_channels_left_or_whole_filters_is_no_repetition():
    half, fifth = {"step": "magnitude_prune", "sparsity": 0.5}, {"step": "random_prune", "sparsity": 0.2}
    for steps in (
        [half, "magnitude_prune"], ["magnitude_prune", "channel_prune", half], ["magnitude_prune", half | {"layers": "fc"}],
        ["random_prune", half | {"scope": "layer"}], ["magnitude_prune", "contribution_prune"], ["contribution_prune", fifth],
        ["magnitude_prune", "entropy_prune"],
    ):  # fmt: skip
        assert Work("resnet18", "digits", recipe_of(*steps)).warnings() == []


@pytest.mark.parametrize(
    "step_type", [step_type for step_type in EVERY_STEP if "layers" in {spec.name for spec in params(step_type)}], ids=lambda kind: kind.name
)
def test_layers_that_match_nothing_are_refused_before_any_work(step_type):
    with pytest.raises(BadField, match=r"layers cannot be 'layr1\.\*'; it takes all, inner, or patterns that match a layer"):
        Work("resnet18", "digits", Recipe((step_type(layers="layr1.*"),)))


def test_a_pattern_that_matches_nothing_is_refused_beside_one_that_does():
    with pytest.raises(BadField, match=r"layers cannot be 'layr\*'; it takes all, inner, or patterns that match a layer"):
        Work("resnet18", "digits", recipe_of({"step": "random_prune", "layers": "layer1.*, layr*"}))
