"""A page without a cluster: a home with two checkpoints that nobody loads, a few measured runs, and a cluster that only takes notes."""

from __future__ import annotations

import functools
import json

import pytest
import streamlit as st
from streamlit.components.v2 import manifest_scanner

import core.methods  # noqa: F401
from core import cluster
from core.recipe import Recipe
from core.store import Store, blank_row
from core.studies import gallery
from core.work import Work
from pages.ui import follow, live

MODELS = {"resnet18": (92.0, 44_700_000), "squeezenet1_1": (90.0, 2_900_000)}
PRUNE, BITS, REPAIR = {"step": "magnitude_prune", "sparsity": 0.8}, {"step": "quantize", "weight_bits": 4, "clipping": "mse"}, {"step": "calibrate_batchnorm"}
TRIED = ([], [PRUNE, REPAIR], [BITS, REPAIR], [PRUNE, BITS, REPAIR], [{"step": "distill", "temperature": 4}, BITS, REPAIR])


def metrics(top1: float, size: float, ratio: float | None = 1.0, images: int = 5000) -> dict:
    times = {"runtime": "onnxruntime-float32", "threads": 1, "batch": 1, "ms_p10": 1.9, "ms_p50": 2.1, "ms_p90": 2.3}
    interval = {"ratio": ratio, "ratio_low": ratio, "ratio_high": ratio} if ratio else {}
    return {
        "top1": top1, "top1_low": top1 - 0.8, "top1_high": top1 + 0.7, "top5": 99.5, "images": images, "parameters": 11_000_000, "nonzero": 2_200_000,
        "macs": 37_000_000, "paper_bytes": int(size * 0.97), "artifact_bytes": int(size), "deployed_bytes": int(size * 2),
        "provenance": {"top1": "measured", "artifact_bytes": "measured"}, "latencies": [times | interval] if ratio else [], "notes": [],
    }  # fmt: skip


def result(model: str, steps: list[dict], number: int = 0, machine: str = "elsewhere") -> dict:
    top1, size = MODELS[model]
    recipe = Recipe.from_json({"steps": steps})
    return {
        "model": model, "dataset": "fashion_mnist", "recipe": recipe.to_json(), "key": recipe.key(),
        "identity": Work(model, "fashion_mnist", recipe).identity(),
        "split": "validation", "machine": {"id": machine, "cpu": "a CPU"}, "baseline": metrics(top1, size),
        "metrics": metrics(top1 - number, size / (1 + 5 * number)), "difference": {"top1": -number, "low": -number - 0.3, "high": -number + 0.3},
        "seconds": {"compress": 2.0, "evaluate": 3.0, "total": 6.0}, "date": "2026-11-22T10:00:00+00:00",
    }  # fmt: skip


def shipped() -> list[dict]:
    return [result(model, steps, number) for model in MODELS for number, steps in enumerate(TRIED)]


class Look:
    """A preview that came at once, or never."""

    def __init__(self, answer):
        self.answer = answer

    def wait(self, seconds):
        return self.answer is not None

    def result(self, timeout=None):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Notes:
    """Stands for the cluster: writes down what it is asked, and answers previews with `answer`."""

    def __init__(self, store: Store):
        self.store, self.asked, self.questions, self.answer, self.examining = store, [], [], preview(), {}
        self.told = {"connected": True, "workers": 2, "waiting": 0, "running": 0, "trouble": None}

    def state(self):
        return self.told

    def find(self, identity):
        return self.examining.get(identity) or self.store.find(identity)

    def measure(self, work):
        self.asked.append(("measure", work.recipe.key()))

    def preview(self, lane, work, seconds):
        self.asked.append(("preview", work.recipe.key(), seconds))
        return Look(self.answer)

    def submit(self, work, lane=None):
        self.asked.append(("submit", work.recipe.key()))
        return blank_row(work.identity(), model=work.model, dataset=work.dataset, recipe=work.recipe.to_json(), key=work.recipe.key(), split=work.split)

    def submit_all(self, works, lane=None, priority=None):
        return [self.submit(work) for work in works]

    def train(self, model, dataset, **settings):
        self.asked.append(("train", model, *settings.items()))
        return blank_row("a-training", "training", model=model, dataset=dataset)

    def ask(self, model, dataset):
        self.asked.append(("ask", model))

    def fetch(self, dataset):
        self.asked.append(("fetch", dataset))
        return blank_row("a-fetch", "fetch", dataset=dataset)

    def bring(self, asked):
        asked.check()
        self.asked.append(("import", asked))
        self.examining["an-import"] = row = blank_row("an-import", "import", model=asked.model, dataset=asked.name)
        return row

    def examine(self, asked, lane=None):
        self.asked.append(("examine", asked.kind, lane.rpartition("-")[2]))
        self.questions.append(asked)
        self.examining[asked.identity()] = row = blank_row(asked.identity(), asked.kind, model=asked.model, dataset=asked.dataset)
        return row

    def cancel(self, identity):
        self.asked.append(("cancel", identity))


def preview(top1: float = 89.0) -> dict:
    found = metrics(top1, 1_500_000, ratio=None, images=256)
    return {"metrics": found, "difference": {"top1": -3.0, "low": -5.0, "high": -1.0}, "before_recovery": False, "images": 256, "seconds": {}}


@pytest.fixture(scope="session", autouse=True)
def _packages_are_looked_through_once():
    """Streamlit reads the metadata of every installed package for each AppTest, half a second of the processor; they do not change meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(manifest_scanner, "scan_component_manifests", functools.cache(manifest_scanner.scan_component_manifests))
        yield


@pytest.fixture
def checkpoints(home):
    folder = home / "checkpoints" / "fashion_mnist"
    folder.mkdir(parents=True)
    for model, (top1, _) in MODELS.items():
        card = {"classes": 10, "input_size": 32, "validation": {"top1": top1, "images": 5000}}
        (folder / f"{model}.json").write_text(json.dumps(card))
        (folder / f"{model}.safetensors").write_bytes(model.encode())
    return folder


@pytest.fixture
def notes(checkpoints, monkeypatch) -> Notes:
    """The page's cluster. Everything that the page caches begins anew."""
    made = Notes(Store())
    monkeypatch.setattr(cluster, "connect", lambda *given, **named: made)
    monkeypatch.setattr(gallery, "runs", shipped)
    monkeypatch.setattr(live, "LEAD_SECONDS", 0)
    monkeypatch.setattr(follow, "PATIENCE", {"drag": 0.01, "rest": 0.01})  # a preview that has not come at once never will
    st.cache_resource.clear()
    yield made
    st.cache_resource.clear()
    made.store.close()
