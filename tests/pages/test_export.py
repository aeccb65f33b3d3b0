"""The page Export without a browser: a line a format, what stands in it at every stage, and what its buttons ask for."""

from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.errors import BadInput
from core.exports import FORMATS, Export, Made, Record
from core.keeping import kept
from core.recipe import Recipe
from core.runtimes import litert
from core.store import blank_row
from core.work import Work
from tests.pages.conftest import BITS, PRUNE, REPAIR
from tests.pages.test_explorer import markup

ROOT = Path(__file__).parents[2]
INT8 = {"step": "quantize", "weight_bits": 8, "activation_bits": 8}
QUERY = {"model": "resnet18", "data": "fashion_mnist"}
DEFAULT = ["magnitude_prune", "quantize~clipping~mse", "calibrate_batchnorm"]


def open_page(steps: list[str] = DEFAULT) -> AppTest:
    page = AppTest.from_file(str(ROOT / "dashboard.py"), default_timeout=60)
    page.switch_page("pages/4_Export.py")
    for name, value in (QUERY | {"step": steps}).items():
        page.query_params[name] = value
    page.run()
    assert not page.exception
    return page


def asked(format: str, steps: list[dict] = (PRUNE, BITS, REPAIR)) -> Export:
    return Export(Work("resnet18", "fashion_mnist", Recipe.from_json({"steps": list(steps)})), format)


def record(export: Export) -> Record:
    return Record(
        format=export.format, identity=export.work.identity(), model=export.model, dataset=export.dataset, recipe=export.work.recipe.to_json(),
        split="validation", images=5000, bytes=1_234_567, sha256="ab", top1=91.5, top1_low=90.7, top1_high=92.3, agreement=0.9996, run_top1=91.52,
        runtime="onnxruntime 1", machine={"cpu": "a CPU"}, seconds={}, date="2026-11-22T10:00:00+00:00", sheet={"preparation": "grey", "mean": [0], "std": [1]},
    )  # fmt: skip


def keys(page: AppTest) -> set[str]:
    return {button.key for button in page.button}


def test_every_format_has_its_line_and_int8_is_not_made_of_other_grids(notes):
    page = open_page()
    said = markup(page)
    assert all(format.title in said for _name, format in FORMATS.items())
    assert {f"make-{name}" for name, format in FORMATS.items() if format.numbers != "int8" and not format.missing()} <= keys(page)
    assert "append-onnx-int8" in keys(page) and "make-onnx-int8" not in keys(page) and "exporting never changes a model" in said


def test_making_asks_the_cluster_which_is_followed_and_can_be_cancelled(notes):
    page = open_page()
    wanted = asked("onnx")
    notes.export = lambda export: notes.asked.append(("export", export.identity()))
    page.button(key="make-onnx").click().run()
    assert notes.asked[-1] == ("export", wanted.identity())
    notes.examining[wanted.identity()] = blank_row(wanted.identity(), "export", state="RUNNING", stage="verify", fraction=0.8)
    page.run()
    assert "cancel-onnx" in keys(page) and "make-onnx" not in keys(page)
    page.button(key="cancel-onnx").click().run()
    assert notes.asked[-1] == ("cancel", wanted.identity())
    notes.examining[wanted.identity()] = blank_row(wanted.identity(), "export", state="FAILED", message="It is refused because it disagrees.")
    page.run()
    assert "It is refused because it disagrees." in markup(page) and "make-onnx" in keys(page)


def test_what_is_kept_is_offered_with_its_figures(notes):
    export = asked("onnx")
    kept.put(export.shelf, export.kept_as(), Made(record(export), b"a file").kept())
    page = open_page()
    said = markup(page)
    assert "91.50 %" in said and "99.96 %" in said and "n = 5,000, in onnxruntime 1 on this machine" in said
    (button,) = page.get("download_button")
    assert button.proto.label == "Download, 1.23 MB" and "make-onnx" not in keys(page)


def test_a_recipe_that_was_not_measured_is_measured_first(notes):
    page = open_page([*DEFAULT, "quantize~weight_bits~8~activation_bits~8"])
    assert not any(key and key.startswith("make-") for key in keys(page))
    page.button(key="measure").click().run()
    assert notes.asked[-1][0] == "submit"


def test_int8_is_appended_as_a_new_recipe(notes):
    page = open_page()
    page.button(key="append-onnx-int8").click().run()
    assert not page.exception and "measure" in keys(page)
    assert [entry for entry in notes.asked if entry[0] == "submit"] == [], "it is measured when somebody asks for it"
    assert page.query_params["step"] == [*DEFAULT, "quantize~weight_bits~8~activation_bits~8"]


def test_another_run_is_chosen_from_the_measured_ones(notes):
    page = open_page()
    box = next(box for box in page.selectbox if box.key == "export-run-key")
    assert len(box.options) == 5 and box.options[0].startswith("Uncompressed · 92.00 %")
    box.set_value(Recipe().key()).run()
    assert not page.exception and page.query_params["step"] == "none"


def test_without_litert_the_page_says_how_to_get_it(notes, monkeypatch):
    find = litert.importlib.util.find_spec
    monkeypatch.setattr(litert.importlib.util, "find_spec", lambda name: None if name == litert.CONVERTS else find(name))
    page = open_page()
    assert markup(page).count("requirements-litert.txt") == 3 and not {"make-tflite", "make-tflite-int8"} & keys(page)


def test_a_refusal_is_a_sentence_on_the_page(notes):
    def refuse(_export):
        raise BadInput("It cannot be made.")

    page = open_page()
    notes.export = refuse
    page.button(key="make-onnx").click().run()
    assert [error.value for error in page.error] == ["It cannot be made."]


@pytest.mark.parametrize("format", ["onnx", "artifact"])
def test_what_was_asked_and_is_not_kept_any_more_can_be_made_again(notes, format):
    export = asked(format)
    notes.export = lambda export: None
    page = open_page()
    page.button(key=f"make-{format}").click().run()
    notes.examining[export.identity()] = blank_row(export.identity(), "export", state="COMPLETE")
    page.run()
    assert "not kept any more" in markup(page) and f"make-{format}" in keys(page)
