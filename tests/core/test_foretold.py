"""What steps behind a training will note, told before it: each criterion, and that looking changes nothing."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
import torch

from core import engine, training
from core.arithmetic import pruning
from core.datasets import load
from core.foretold import Foretelling, foretold
from core.recipe import Recipe
from core.weights import Compressed, Weight
from core.work import Work
from tests import five_layers

TRAIN = {"step": "finetune", "images": 200}
ALL = "features.0, features.3, features.6 and 2 more"


@pytest.fixture(autouse=True)
def _checkpoint(five_layer_checkpoint):
    pruning._REMEMBERED.clear()
    return five_layer_checkpoint


def work(*steps, model: str = five_layers.NAME, dataset: str = "digits") -> Work:
    return Work(model, dataset, Recipe.from_json({"steps": list(steps)}), latency=False)


def start(asked: Work) -> Compressed:
    base = engine.loaded(asked.model, asked.dataset, asked.checkpoint.hash)
    return Compressed.of(base.module, base.architecture)


def told(*steps, turn=contextlib.nullcontext) -> list[str]:
    asked = work(*steps)
    return foretold(asked, 0, start(asked), load("digits"), turn)


def step(name: str, **fields) -> dict:
    return {"step": name} | fields


def quiet(name: str) -> Compressed:
    """The network with one layer that never fires and whose weights are tiny: whatever ranks it ranks it last."""
    subject = start(work())
    layer, after = subject.module.get_submodule(f"features.{name}"), subject.module.get_submodule(f"features.{int(name) + 1}")
    with torch.no_grad():
        layer.weight.mul_(1e-6)
        after.weight.zero_()
        after.bias.fill_(-1.0)
    subject.weights[f"features.{name}.weight"] = Weight(layer.weight.detach())
    return subject


@pytest.mark.parametrize(
    ("asked", "unless"),
    [
        (step("magnitude_prune", sparsity=0.3), "unless training raises the absolute value of some to that of the 70 % that stay."),
        (step("magnitude_prune", threshold=0.001), "unless training raises the absolute value of some to 0.001."),
        (step("gradient_prune", sparsity=0.4), "unless training raises the score of some to that of the 60 % that stay."),
        (step("gradient_prune", sparsity=0.4, score="snip"), "unless training raises the score of some to that of the 60 % that stay."),
        (step("gradient_prune", threshold=1e-12), "unless training raises the score of some to 1e-12."),
        (step("entropy_prune", sparsity=0.3), "unless training raises the information of some to that of the 70 % that stay."),
        (step("entropy_prune", threshold=0.5), "unless training raises the information of some to 0.5 bits."),
    ],
)
def test_a_layer_that_a_criterion_will_empty_is_told(asked, unless):
    beside = "fc" if asked["step"] == "gradient_prune" else "features.3"  # no slope passes a layer that never fires
    recipe = work(TRAIN, asked | {"layers": f"features.6, {beside}"})
    said = foretold(recipe, 0, quiet("6"), load("digits"), contextlib.nullcontext)
    sets = f"{asked['step']} sets every weight of features.6 to zero, "
    assert said == [sets + unless]


def test_every_layer_that_a_threshold_on_information_will_empty_is_told():
    asked = step("entropy_prune", threshold=20.0, granularity="weight")
    assert told(TRAIN, asked) == [f"entropy_prune sets every weight of {ALL} to zero, unless training raises the information of some to 20 bits."]


def small() -> Compressed:
    """The network with a layer of 16 weights, of which 99 % are all."""
    base = start(work())
    base.module.features[6] = torch.nn.Conv2d(16, 16, 1, 2, groups=16, bias=False)
    return Compressed.of(base.module, base.architecture)


BY_LAYER = ("magnitude_prune", "gradient_prune", "entropy_prune", "contribution_prune", "random_prune")


@pytest.mark.parametrize("name", BY_LAYER)
def test_a_share_within_each_layer_that_is_all_of_it_is_told_and_comes_true(name):
    asked = work(TRAIN, step(name, scope="layer", sparsity=0.99))
    said = foretold(asked, 0, small(), load("digits"), contextlib.nullcontext)
    assert said == [f"{name} sets every weight of features.6 to zero, because 99 % of so few weights are all of them."]
    subject = small()
    engine._apply(asked, 1, subject, load("digits"), engine.Hooks(), 32)
    assert [note.split(":")[0] for note in subject.notes] == [f"{name} set every weight of features.6 to zero"]


def test_a_draw_that_empties_a_layer_is_told_and_comes_true():
    asked = work(TRAIN, step("random_prune", sparsity=0.99))
    said = foretold(asked, 0, small(), load("digits"), contextlib.nullcontext)
    subject = small()
    engine._apply(asked, 1, subject, load("digits"), engine.Hooks())
    sets, _, why = said[0].partition(" to zero, ")
    assert "features.6" in sets and sets.replace("sets", "set") == subject.notes[0].partition(" to zero")[0]
    assert why == "because the recipe's seed draws them all."


def test_what_takes_long_itself_is_told_before_it():
    asked = work(step("contribution_prune", scope="layer", sparsity=0.99))
    assert len(foretold(asked, 0, small(), load("digits"), contextlib.nullcontext)) == 1


def test_later_prunings_see_what_earlier_ones_leave():
    half, most = step("magnitude_prune", sparsity=0.5), step("magnitude_prune", threshold=10.0, layers="features.3")
    said = told(TRAIN, most, TRAIN, half, TRAIN, most)
    assert said == ["magnitude_prune sets every weight of features.3 to zero, unless training raises the absolute value of some to 10."]


@pytest.mark.parametrize(
    ("steps", "layers"),
    [
        ([TRAIN, step("magnitude_prune", sparsity=0.95, scope="layer"), step("share_weights", clusters=16)], "features.0.weight, features.6.weight"),
        ([step("magnitude_prune", sparsity=0.95, scope="layer"), TRAIN, step("share_weights", clusters=16)], "features.0.weight, features.6.weight"),
        ([TRAIN, step("quantize", weight_bits=2, granularity="tensor"), step("share_weights", clusters=16)],
         "features.0.weight, features.3.weight, features.6.weight, features.9.weight, …"),
        ([TRAIN, step("share_weights", clusters=3), TRAIN, step("share_weights", clusters=16, layers="fc")], "fc.weight"),
    ],
)  # fmt: skip
def test_clusters_beyond_the_distinct_weights_that_are_left_are_told(steps, layers):
    said = [note for note in told(*steps) if note.startswith("share_weights")]
    number = 16
    expected = f"share_weights finds fewer than {number} distinct weights in {layers}"
    assert len(said) == 1 and said[0].startswith(expected) and said[0].endswith(" once the steps before it are done, unless training changes that.")


def test_one_codebook_for_all_counts_the_weights_of_all():
    few = step("magnitude_prune", sparsity=0.99)
    assert told(TRAIN, few, step("share_weights", clusters=16, scope="model"))[1:] == []
    assert len(told(TRAIN, few, step("share_weights", clusters=256, scope="model"))) == 2


def test_a_look_tells_nothing_of_what_fits_or_lies_behind_a_step_that_changes_shapes():
    assert told(TRAIN, step("magnitude_prune", sparsity=0.5), step("gradient_prune", sparsity=0.6), step("share_weights", clusters=16)) == []
    assert told(TRAIN, step("channel_prune"), TRAIN, step("magnitude_prune", threshold=10.0)) == []


def test_channels_of_which_a_share_rounds_to_none_are_told_before_the_training():
    said = "channel_prune removed no channels, because 5 % of them rounds to none where a layer keeps a multiple of 16."
    assert told(TRAIN, step("channel_prune", sparsity=0.05, round_to=16)) == [said]
    assert told(TRAIN, step("channel_prune", sparsity=0.5)) == []


def test_a_fresh_student_is_told_of_by_its_shapes_alone():
    asked = work(step("student", width=1.0), TRAIN, step("magnitude_prune", threshold=10.0), step("nm_prune"), step("share_weights", clusters=256))
    said = foretold(asked, 1, start(asked), load("digits"), contextlib.nullcontext)
    assert said[0].startswith("nm_prune left inputs of features.0 and features.6 dense")
    assert said[1] == "share_weights found fewer than 256 distinct weights in features.0.weight, features.6.weight."
    assert said[2].startswith("share_weights finds fewer than 256 distinct weights in features.9.weight, fc.weight once") and len(said) == 3


def bits(subject: Compressed) -> list[bytes]:
    return [tensor.detach().numpy().tobytes() for tensor in subject.module.state_dict().values()]


def test_looking_changes_nothing():
    names = ("magnitude_prune", "gradient_prune", "entropy_prune", "random_prune", "nm_prune", "contribution_prune", "share_weights")
    asked = work(TRAIN, *map(step, names), step("quantize", weight_bits=2), step("share_weights", init="kmeans++"))
    subject = start(asked)
    before, weights, drawn = bits(subject), dict(subject.weights), (torch.get_rng_state(), np.random.get_state()[1].copy())
    foretold(asked, 0, subject, load("digits"), contextlib.nullcontext)
    assert bits(subject) == before and subject.weights == weights and subject.notes == [] and not subject.module.training
    assert torch.equal(drawn[0], torch.get_rng_state()) and (drawn[1] == np.random.get_state()[1]).all()


@pytest.mark.parametrize("earlier", [(), (TRAIN, step("channel_prune", sparsity=0.25))])
def test_a_run_tells_before_its_training_and_is_the_same_run(home, monkeypatch, tmp_path, earlier):
    five_layers.checkpoint()
    asked = work(*earlier, TRAIN, step("gradient_prune", threshold=10.0, layers="fc"))
    trainings = sum(each == TRAIN for each in earlier) + 1
    events: list = []
    fit = training.fit
    monkeypatch.setattr("core.training.fit", lambda *args, **kwargs: (events.append("training"), fit(*args, **kwargs)))
    with_look = engine.run(asked, report=events.append, artifact=tmp_path / "with")
    assert events.count("training") == trainings
    last = max(number for number, event in enumerate(events) if event == "training")
    said = [note for event in events[:last] if event != "training" for note in event.get("notes", ()) if " sets " in note]
    assert said == ["gradient_prune sets every weight of fc to zero, unless training raises the score of some to 10."]

    monkeypatch.setattr("core.keeping.prefixes.recall", lambda key: None)  # trained again, without a look
    monkeypatch.setattr("core.foretold.foretold", lambda *_: [])
    without = engine.run(asked, artifact=tmp_path / "without")
    assert events.count("training") == 2 * trainings
    assert with_look.identity == without.identity and (tmp_path / "with").read_bytes() == (tmp_path / "without").read_bytes()
    assert with_look.metrics["notes"] == without.metrics["notes"] and said[0] not in without.metrics["notes"]


EMPTIES = step("magnitude_prune", threshold=10.0, layers="fc")
EMPTIED = "magnitude_prune sets every weight of fc to zero, unless training raises the absolute value of some to 10."
MORE = step("gradient_prune", threshold=10.0, layers="fc")
MORE_EMPTIED = "gradient_prune sets every weight of fc to zero, unless training raises the score of some to 10."
REMOVE, SPLIT = step("channel_prune", sparsity=0.25), step("factorize", energy=0.9, layers="features.3")


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([TRAIN, REMOVE, TRAIN, EMPTIES], [[], [EMPTIED]]),
        ([TRAIN, REMOVE, SPLIT, TRAIN, TRAIN, EMPTIES], [[], [EMPTIED], []]),
        ([TRAIN, REMOVE, TRAIN, SPLIT, TRAIN, EMPTIES], [[], [], [EMPTIED]]),
        ([TRAIN, EMPTIES, REMOVE, TRAIN, MORE, EMPTIES], [[EMPTIED], []]),  # by now nothing is left of it
        ([TRAIN, EMPTIES | {"layers": "features.0"}, SPLIT, TRAIN, MORE], [[EMPTIED.replace("fc", "features.0")], [MORE_EMPTIED]]),
        ([REMOVE, TRAIN, EMPTIES, TRAIN, MORE], [[EMPTIED], []]),
        ([TRAIN, REMOVE, TRAIN], [[], []]),
    ],
    ids=lambda value: " ".join(each["step"] for each in value) if isinstance(value[0], dict) else "",
)
def test_every_training_is_preceded_by_what_can_be_known_then(home, monkeypatch, steps, said):
    five_layers.checkpoint()
    events: list = []
    monkeypatch.setattr("core.training.fit", lambda *args, **kwargs: events.append("training"))
    engine.compress(work(*steps), engine.Hooks(report=events.append, foretells=True))
    heard: list[list[str]] = [[]]
    for event in events:
        heard += [[]] if event == "training" else []
        heard[-1] += [note for note in event["notes"] if " sets " in note] if "notes" in event else []
    assert heard == [*said, []]


def test_a_sentence_about_two_steps_is_told_once(monkeypatch):
    monkeypatch.setattr("core.foretold.foretold", lambda _work, number, *_: ["alike", f"before {number}"])
    asked = work(TRAIN, REMOVE, TRAIN, SPLIT, TRAIN, TRAIN)
    ahead = Foretelling(asked, 0, load("digits"), contextlib.nullcontext)
    assert [ahead.before(number, start(asked)) for number in range(6)] == [["alike", "before 0"], [], ["before 2"], [], ["before 4"], []]
    kept = Foretelling(asked, 3, load("digits"), contextlib.nullcontext)
    assert [kept.before(number, start(asked)) for number in (3, 4, 5)] == [[], ["alike", "before 4"], []]


def test_what_is_kept_of_the_training_is_not_looked_ahead_of(home, monkeypatch):
    five_layers.checkpoint()
    asked = work(TRAIN, step("magnitude_prune", threshold=10.0, layers="fc"))
    engine.compress(asked)
    events: list[dict] = []
    monkeypatch.setattr("core.foretold.foretold", lambda *_: pytest.fail("nothing takes long any more"))
    engine.compress(asked, engine.Hooks(report=events.append))
    assert [note[:35] for event in events for note in event.get("notes", ())] == ["magnitude_prune set every weight of"]


LOOKS = [
    step("magnitude_prune"), step("gradient_prune"), step("entropy_prune"), step("entropy_prune", granularity="weight"), step("contribution_prune"),
    step("random_prune"), step("nm_prune"), step("share_weights"),
]  # fmt: skip


def test_a_look_at_resnet18_is_short():
    dataset = load("fashion_mnist")
    dataset.split("train")
    for asked in LOOKS:
        recipe = work({"step": "finetune"}, asked, model="resnet18", dataset="fashion_mnist")
        subject = start(recipe)
        turns: list[float] = []

        @contextlib.contextmanager
        def turn(turns=turns):
            started = time.perf_counter()
            yield
            turns.append(time.perf_counter() - started)

        started = time.perf_counter()
        foretold(recipe, 0, subject, dataset, turn)
        print(f"{asked}: {time.perf_counter() - started:.2f} s, the longest turn {max(turns):.2f} s")
        assert time.perf_counter() - started < 20
