"""The explorer without a browser: what is on the page, what the controls do, and how it meets what is missing."""

import json
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.errors import StoreError
from core.recipe import Recipe
from core.store import blank_row
from tests.pages.conftest import PRUNE, REPAIR, preview

DASHBOARD = str(Path(__file__).parents[2] / "dashboard.py")


def open_page(**query) -> AppTest:
    page = AppTest.from_file(DASHBOARD, default_timeout=60)
    for name, value in query.items():
        page.query_params[name] = value
    page.run()
    page.run()  # as the page's own pulse does: a preview is drawn before its run is asked for
    assert not page.exception
    return page


def components(page: AppTest, name: str) -> list[dict]:
    """What the components of that name were given."""
    found = []

    def walk(node):
        proto = getattr(node, "proto", None)
        if getattr(proto, "component_name", None) == name:
            given = json.loads(proto.json or proto.mixed.json)
            found.append(json.loads(given["json"]) if "json" in given else given)
        for child in getattr(node, "children", {}).values():
            walk(child)

    for block in page._tree.children.values():
        walk(block)
    return [json.loads(text) for text in dict.fromkeys(json.dumps(entry) for entry in found)]


def figure(page: AppTest) -> dict:
    drawn = components(page, "paretoscope_chart")[0]
    fixed = json.loads(drawn["fixed"])
    return fixed | {"data": fixed["data"] + drawn["moving"]}


def trace(page: AppTest, uid: str) -> dict:
    return next(trace for trace in figure(page)["data"] if trace["uid"] == uid)


def asked_for(page: AppTest, name: str) -> list[str]:
    """What the address bar holds under a name."""
    value = page.query_params.get(name, [])
    return [value] if isinstance(value, str) else list(value)


def markup(page: AppTest) -> str:
    return " ".join(element.proto.body for element in page.get("html"))


def test_opens_on_the_gallery(notes):
    page = open_page()
    assert page.selectbox(key="model").value == "resnet18" and page.selectbox(key="dataset").value == "fashion_mnist"
    assert [slider["value"] for slider in components(page, "paretoscope_slider")] == [0.8, 4, 4.0]
    assert page.checkbox(key="repair").value
    here = trace(page, "here")
    assert here["name"] == "This run" and here["y"] == [89.0] and here["marker"]["symbol"] == "square"
    assert {"front", "baseline", "weights-pruned", "fewer-bits", "distilled"} <= {found["uid"] for found in figure(page)["data"]}
    assert "Baseline" in markup(page) and "92.00 %" in markup(page)
    assert notes.asked == []  # everything is known already


def test_an_unknown_recipe_is_previewed_and_submitted(notes):
    page = open_page(step=["magnitude_prune~sparsity~0.6"])
    assert [entry[0] for entry in notes.asked] == ["preview", "preview", "submit"]
    here = trace(page, "here")
    assert here["name"] == "Preview" and here["marker"]["symbol"].endswith("-open") and here["error_y"]["array"][0] > 0
    assert "preview, 256 pictures" in markup(page)
    assert components(page, "paretoscope_status")[0]["again_ms"]
    assert page.button(key="cancel")


def test_switches_change_the_recipe(notes):
    page = open_page()
    page.checkbox(key="repair").uncheck().run().run()
    assert notes.asked[-1][0] == "submit"
    assert "calibrate_batchnorm" not in asked_for(page, "step")
    page.checkbox(key="int8").check().run()
    assert any("activation_bits~8" in step for step in asked_for(page, "step"))


def test_presets_start_a_recipe(notes):
    page = open_page()
    page.selectbox(key="preset").select(1).run()
    assert asked_for(page, "step") == ["magnitude_prune~sparsity~0.9", "calibrate_batchnorm"]


def test_a_model_without_batch_norm_offers_no_repair(notes, monkeypatch):
    from core import zoo

    models = {name: dict(facts) for name, facts in zoo.models().items()}
    models["squeezenet1_1"]["batch_norm"] = False
    monkeypatch.setattr(zoo, "models", lambda: models)
    page = open_page(model=["squeezenet1_1"], step=["magnitude_prune~sparsity~0.5"])
    assert not [box for box in page.checkbox if box.key == "repair"]
    assert "no batch norm" in " ".join(caption.value for caption in page.caption)
    page = open_page(model=["squeezenet1_1"])  # of a recipe that repairs, the warning below its chips says so
    assert not [box for box in page.checkbox if box.key == "repair"] and "no batch norm" not in " ".join(caption.value for caption in page.caption)


def test_another_model_has_its_own_chart(notes):
    page = open_page()
    page.selectbox(key="model").select("squeezenet1_1").run()
    assert trace(page, "baseline")["y"] == [90.0]
    assert asked_for(page, "model") == ["squeezenet1_1"]


def test_budgets_answer_and_grey_out(notes):
    page = open_page()
    page.number_input(key="budget-kilobytes").set_value(5000.0).run()
    assert "Best measured run with at most 5.00 MB to download" in markup(page)
    grey = [opacity for found in figure(page)["data"] if found["uid"] in ("weights-pruned", "fewer-bits") for opacity in found["marker"]["opacity"]]
    assert min(grey) < 0.2
    assert asked_for(page, "kilobytes") == ["5000"]


def test_axis_and_front_of_all_models(notes):
    page = open_page(x=["latency"], front=["all"])
    assert figure(page)["layout"]["xaxis"]["title"]["text"].startswith("Latency ratio")
    assert "front-of-all-models" not in {found["uid"] for found in figure(page)["data"]}, "a ratio is to each model's own baseline"
    assert "front-of-all-models" in {found["uid"] for found in figure(open_page(front=["all"]))["data"]}


def test_off_step_link_is_said(notes):
    page = open_page(step=["magnitude_prune~sparsity~0.8034", "quantize~clipping~mse", "calibrate_batchnorm"])
    assert "0.8 is used instead" in page.warning[0].value
    page.button(key="close-messages").click().run()
    assert not page.warning


def test_a_missing_dataset_says_what_to_do(notes):
    page = open_page(data=["cifar10"])
    assert "python -m core datasets --fetch cifar10" in page.info[0].value
    assert not components(page, "paretoscope_chart")
    page.button(key="fetch").click().run()
    assert notes.asked == [("fetch", "cifar10")] and page.button(key="cancel")


def test_a_failed_download_says_why(notes):
    row = blank_row("a-fetch", "fetch", dataset="cifar10", owner="test")
    notes.store.claim(row)
    notes.store.write({"a-fetch": {"state": "FAILED", "message": "The network cannot be reached."}})
    assert "cannot be reached" in open_page(data=["cifar10"]).error[0].value


def test_a_pair_without_a_checkpoint_offers_training(notes):
    page = open_page(model=["alexnet"])
    assert page.button(key="train").label.startswith("Train, ≈")
    page.button(key="train").click().run()
    assert notes.asked == [("train", "alexnet")] and page.button(key="cancel")
    page.button(key="cancel").click().run()
    assert notes.asked[-1] == ("cancel", "a-training")


def test_a_larger_input_size_is_trained_when_it_is_chosen(notes):
    page = open_page(model=["mnasnet0_5"])
    sizes, usual = page.selectbox(key="input-size"), page.button(key="train").label
    assert sizes.options == ["32 × 32", "64 × 64", "96 × 96", "128 × 128", "224 × 224"] and sizes.value == 32
    sizes.select(96).run()
    assert page.button(key="train").label != usual
    page.button(key="train").click().run()
    assert notes.asked == [("train", "mnasnet0_5", ("size", 96))]


def test_cancel_reaches_the_cluster(notes):
    page = open_page(step=["magnitude_prune~sparsity~0.6"])
    page.button(key="cancel").click().run()
    assert notes.asked[-1][0] == "cancel"


def test_a_failed_run_shows_its_sentence(notes):
    from core.work import Work

    work = Work("resnet18", "fashion_mnist", Recipe.from_json({"steps": [PRUNE | {"sparsity": 0.6}, REPAIR]}))
    notes.store.claim(blank_row(work.identity(), model="resnet18", dataset="fashion_mnist", owner="test"))
    notes.store.write({work.identity(): {"state": "FAILED", "message": "The disk is full."}})
    page = open_page(step=["magnitude_prune~sparsity~0.6", "calibrate_batchnorm"])
    assert "The disk is full." in markup(page)
    page.button(key="run-again").click().run().run()
    assert notes.asked[-1][0] == "submit"


def test_an_error_of_the_store_is_a_message_box(notes, monkeypatch):
    def refuse(*_):
        raise StoreError("The database was made by a newer Paretoscope.")

    monkeypatch.setattr(notes.store.__class__, "revision", refuse)
    page = open_page()
    assert "newer Paretoscope" in page.error[0].value


def test_the_cluster_in_trouble_is_said(notes):
    notes.told = notes.told | {"connected": False}
    assert components(open_page(), "paretoscope_status")[0]["text"].startswith("starting")
    notes.told = notes.told | {"trouble": "The workers cannot start."}
    told = components(open_page(), "paretoscope_status")[0]
    assert told["mood"] == "wrong" and told["detail"] == "The workers cannot start."


def test_pinned_runs_are_compared(notes):
    other = trace(open_page(), "fewer-bits")["customdata"][0][0]
    page = open_page(pin=["resnet18/gone", other])
    assert asked_for(page, "pin") == ["resnet18/gone", other] and "compare" not in {button.key for button in page.button}
    page.button(key="pin").click().run()
    assert len(asked_for(page, "pin")) == 3
    assert page.button(key="compare").label == "Compare 2 pinned"
    page.button(key="compare").click().run()
    assert not page.exception


def test_drawers_open(notes):
    page = open_page()
    page.button(key="runs").click().run()
    assert not page.exception and len(page.dataframe[0].value) == 5
    page = open_page()
    page.button(key="code").click().run()
    assert not page.exception and any("python -m core run" in code.value for code in page.code)


@pytest.mark.parametrize("answer", [None, preview(33.0)])
def test_a_late_or_low_preview_breaks_nothing(notes, answer):
    notes.answer = answer
    page = open_page(step=["magnitude_prune~sparsity~0.97"])
    assert components(page, "paretoscope_chart")
