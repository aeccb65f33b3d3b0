"""The scripts that go with a file, in an interpreter where only the runtime can be imported: answers, preprocessing, time, limits."""

from __future__ import annotations

import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import core
from core import engine
from core.datasets import DATASETS, Dataset, load
from core.exports import FORMATS, Export, Made, make, sheet
from core.recipe import Recipe
from core.work import Work
from tests import clean, five_layers

SCRIPTS = sorted((Path(core.__file__).parent / "exports" / "scripts").glob("*.py"))
ROOT = Path(core.__file__).parents[1]
RUN = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
KNOWN = "from tests import five_layers; five_layers.register()"  # the tests' own model, which Paretoscope does not know
COUNT = 60


def test_a_script_is_at_most_thirty_lines():
    runs = [path.name for path in SCRIPTS if path.name != "check.py"]
    assert len(runs) == len(SCRIPTS) - 1 and runs == sorted(clean.PACKAGES) == sorted({format.script for _name, format in FORMATS.items()})
    assert all(len(path.read_text().splitlines()) <= 30 for path in SCRIPTS)


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return {script: clean.site(packages, tmp_path_factory.mktemp("sites") / script) for script, packages in clean.PACKAGES.items()}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> dict[str, Path]:
    """The first pictures of the digits' validation split: as .npy, and with their labels as .npz."""
    folder, split = tmp_path_factory.mktemp("pictures"), load("digits").split("validation")
    np.save(folder / "p.npy", split.images[:COUNT, 0])
    np.savez(folder / "p.npz", images=split.images[:COUNT, 0], labels=split.labels[:COUNT])
    return {suffix: folder / f"p.{suffix}" for suffix in ("npy", "npz")}


@pytest.mark.parametrize(
    "format", ["onnx-int8", *(pytest.param(name, marks=pytest.mark.slow) for name in FORMATS if name not in ("onnx-int8", "artifact", "tflite-fp16"))]
)
def test_the_script_gives_the_engines_answers_with_its_runtime_alone(five_layer_checkpoint, sites, pictures, tmp_path, format):
    if FORMATS.get(format).missing() is not None:
        pytest.skip("LiteRT is not here")
    steps = [{"step": "quantize", "weight_bits": 8, "activation_bits": 8}] if format.endswith("int8") else []
    asked = Export(Work(five_layers.NAME, "digits", Recipe.from_json({"steps": steps})), format)
    answers(asked, sites, pictures, tmp_path, right=1.0 if FORMATS.get(format).held or format == "tflite" else 0.95)


@pytest.mark.slow
def test_the_script_of_a_packed_file_does_so_by_paretoscopes_own_reader(sites, pictures, tmp_path):
    answers(Export(Work("shufflenet_v2_x0_5", "digits"), "artifact"), sites, pictures, tmp_path, right=1.0)


@pytest.fixture
def packed(five_layer_checkpoint, tmp_path) -> Made:
    """A packed file as `m.psc`, and what goes with it."""
    made = make(
        Export(Work(five_layers.NAME, "digits", Recipe.from_json({"steps": [{"step": "quantize", "weight_bits": 4, "activation_bits": 5}]})), "artifact")
    )
    for file, data in made.files("m.psc").items():
        (tmp_path / file).write_bytes(data)
    return made


def test_a_packed_file_is_read_by_its_script(packed, pictures, tmp_path, monkeypatch):
    """In the tests' own interpreter, which has Paretoscope."""
    monkeypatch.setattr(sys, "argv", ["m.psc.py", "--paretoscope", str(ROOT), str(pictures["npy"])])
    monkeypatch.setattr(sys, "path", list(sys.path))
    script = runpy.run_path(str(tmp_path / "m.psc.py"))
    work = Work(packed.record.model, packed.record.dataset, Recipe.from_json(packed.record.recipe))
    found = script["run"](script["prepare"](np.load(pictures["npy"]))).argmax(1)
    np.testing.assert_array_equal(found, np.frombuffer(engine.run(work).predicted, "<u2")[:COUNT])
    assert sys.path[0] == str(ROOT) and script["names"] == [str(pictures["npy"])]
    (tmp_path / "m.psc").write_bytes(packed.data[:-1])
    with pytest.raises(SystemExit, match=r"^The file is damaged: its checksum does not fit"):
        runpy.run_path(str(tmp_path / "m.psc.py"))


@pytest.mark.slow
def test_the_script_of_a_packed_file_finds_paretoscope_or_says_in_a_sentence_that_it_does_not(packed, sites, pictures, tmp_path):
    for script, given in (("m.psc.py", [pictures["npy"]]), ("m.psc.check.py", ["--max-ms", "10000"])):
        alone = clean.run(sites["run_packed.py"], tmp_path / script, *given)
        assert alone.returncode == 1 and alone.stdout == "" and alone.stderr.count("\n") == 1
        assert alone.stderr.startswith(
            "Paretoscope runs this file (No module named 'core'): give its folder, by --paretoscope FOLDER or PYTHONPATH, to its own"
        )
    command = [sys.executable, "-c", f"{KNOWN}; {RUN}", tmp_path / "m.psc.py", pictures["npy"]]
    done = subprocess.run(command, env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]}, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert len(done.stdout.split(", ")) == COUNT
    unknown = subprocess.run([*command[:2], RUN, *command[3:]], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert unknown.returncode == 1 and unknown.stderr.startswith("There is no model named 'five_layers'") and unknown.stderr.count("\n") == 1


def answers(asked: Export, sites, pictures, folder: Path, right: float) -> None:
    """The script's labels are the engine's, its time is a line of JSON, and the second script holds limits."""
    with_it = ("--paretoscope", str(ROOT)) if asked.format == "artifact" else ()
    made, name = make(asked), f"small{FORMATS.get(asked.format).suffix}"
    for file, data in made.files(name).items():
        (folder / file).write_bytes(data)
    site = sites[FORMATS.get(asked.format).script]
    done = clean.run(site, folder / f"{name}.py", *with_it, pictures["npy"], "--time")
    assert done.returncode == 0, done.stderr
    classes = load(asked.dataset).source.classes
    expected = np.frombuffer(engine.run(asked.work).predicted, "<u2")[:COUNT]
    said = done.stdout.splitlines()[0].split(", ")
    assert np.mean([label == classes[best] for label, best in zip(said, expected, strict=True)]) >= right
    timed = clean.last_json(done)
    assert 0 < timed["ms_p10"] <= timed["ms_p50"] <= timed["ms_p90"] and (timed["run"], timed["threads"], timed["batch"]) == (made.record.identity, 1, 1)
    assert made.record.runtime.split("+")[0].endswith(timed["runtime"].split("+")[0])

    check = folder / f"{name}.check.py"
    kept = clean.run(site, check, *with_it, pictures["npz"], "--min-top1", "50", "--max-bytes", str(len(made.data)), "--max-ms", "10000")
    assert kept.returncode == 0 and kept.stdout.count("kept:") == 3, kept.stderr
    missed = clean.run(site, check, *with_it, pictures["npz"], "--min-top1", "100.1", "--max-bytes", str(len(made.data) - 1), "--max-ms", "0")
    assert missed.returncode == 1 and missed.stdout.count("MISSED:") == 3
    unclear = clean.run(site, check, "--min-top1", "50")
    assert unclear.returncode == 2 and "--min-top1 wants pictures" in unclear.stderr


@pytest.mark.parametrize("input_size", [8, 10, 12, 5, 20, 32])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_are_prepared_as_the_engine_prepares_them(input_size, channels, tmp_path):
    """By the lines of the script itself, on noise: padded, as they are, enlarged, and shrunk with antialiasing."""
    mean, std = (0.3, 0.4, 0.5)[:channels], (0.2, 0.25, 0.3)[:channels]
    source = dataclasses.replace(DATASETS.get("digits"), channels=channels, size=8, mean=mean, std=std)
    dataset = Dataset(source, source.read() if channels == 1 else {name: (np.repeat(x, 3, 1), y) for name, (x, y) in source.read().items()})
    noise = np.random.default_rng(0).integers(0, 256, (4, channels, 8, 8), np.uint8)
    told = sheet.sheet(source, input_size, Work("squeezenet1_1", "fashion_mnist"), FORMATS.get("onnx"))
    lines = [line for line in SCRIPTS[1].read_text().splitlines() if line.startswith(("size, (mean", "sized", "scaled", "prepare"))]
    known = {"np": np, "sys": sys, "SHEET": json.loads(json.dumps(told))}
    exec("\n".join(lines), known)
    expected = dataset.prepare(noise, input_size).numpy()
    found = known["prepare"](noise.transpose(0, 2, 3, 1))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, np.broadcast_to(expected, found.shape), atol=2e-5)
    if channels == 1:
        np.testing.assert_array_equal(found, known["prepare"](noise[:, 0]))
    whole = noise.transpose(0, 2, 3, 1)
    for other in (whole.repeat(2, 1).repeat(2, 2), whole[:, :4], whole.repeat(2, 2), whole.repeat(2, 3), *([noise[0], noise[:, 0]] if channels == 3 else [])):
        with pytest.raises(SystemExit, match=r"A picture is \(8, 8, "):
            known["prepare"](other)


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.name.startswith("run_")], ids=lambda path: path.name)
@pytest.mark.parametrize(("slow", "ms", "disturbed"), [([], 1, False), ([5], 2, False), ([3, 4, 5], 1, True), ([5, 3, 6], 2, True)], ids=str)
def test_a_measurement_beside_other_load_is_repeated_and_marked(path, slow, ms, disturbed):
    """By the script's own lines and clock: measurement n takes n ms a call, and most of one block of it `slow` times as long; the calmest is told."""
    took = [[number] * 80 + [number * times] * 12 + [number] * 128 for number, times in enumerate([*slow, 1], 1)]
    ticks = iter(np.concatenate([np.cumsum([0, *each]) / 1000 for each in took]))
    lines = [line for line in path.read_text().splitlines() if line.startswith(("ticks =", "calm =", "timed ="))]
    known = {"np": np, "SHEET": {"input": [1, 3, 8, 8]}, "ABOUT": {"run": "a"}, "run": lambda x: x, "time": SimpleNamespace(perf_counter=ticks.__next__)}
    exec("\n".join(lines), known)
    assert known["timed"]() == {"run": "a", "ms_p10": ms, "ms_p50": ms, "ms_p90": ms, "disturbed": disturbed}


@pytest.mark.parametrize(
    ("disturbed", "said"), [(True, "kept: ms 2, at most 2.5, disturbed by other load three times over"), (False, "kept: ms 2, at most 2.5")]
)
def test_the_second_script_says_that_a_time_was_disturbed(disturbed, said, tmp_path):
    """Of a model whose script tells such a time."""
    (tmp_path / "m.onnx.check.py").write_text((SCRIPTS[0].parent / "check.py").read_text())
    (tmp_path / "m.onnx.py").write_text(f"timed = lambda: {{'ms_p50': 2.0, 'disturbed': {disturbed}}}")
    done = subprocess.run([sys.executable, str(tmp_path / "m.onnx.check.py"), "--max-ms", "2.5"], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == said


def test_image_files_are_read_by_pillow(five_layer_checkpoint, tmp_path):
    """In the tests' own interpreter, which has Pillow."""
    from PIL import Image

    asked = Export(Work(five_layers.NAME, "digits"), "onnx")
    for file, data in make(asked).files("m.onnx").items():
        (tmp_path / file).write_bytes(data)
    split = load("digits").split("validation")
    np.save(tmp_path / "p.npy", split.images[:3, 0])
    for number in range(3):
        Image.fromarray(split.images[number, 0]).save(tmp_path / f"{number}.png")
    given = [str(tmp_path / f"{number}.png") for number in range(3)]
    done = subprocess.run([sys.executable, str(tmp_path / "m.onnx.py"), str(tmp_path / "p.npy"), *given], capture_output=True, text=True, check=True)
    together, *apart = done.stdout.splitlines()
    assert together.split(", ") == apart and len(apart) == 3


@pytest.mark.parametrize("path", [path for path in SCRIPTS if path.name.startswith("run_")], ids=lambda path: path.name)
@pytest.mark.parametrize("shape", [(60, 41), (41, 60), (32, 32), (20, 300)])
def test_a_photograph_is_cut_as_an_import_cuts_it(path, shape, tmp_path):
    """By the script's own two lines, against what pictures of that preparation were decoded with."""
    from PIL import Image

    from core.datasets.preparation import Preparation

    preparation = Preparation(resize=36, crop=32)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)).save(tmp_path / "one.png")
    lines = [line for line in path.read_text().splitlines() if line.startswith(("near =", "middle ="))]
    known = {"SHEET": {"picture": {"resize": 36}}, "size": 32}
    exec("\n".join(lines), known)
    with Image.open(tmp_path / "one.png") as picture:
        seen = np.asarray(known["middle"](known["near"](picture)))
    assert np.array_equal(seen.transpose(2, 0, 1), preparation.square(tmp_path / "one.png"))
