"""`python -m core`: what it prints, on which stream, with which exit status; never a traceback."""

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors

from core import zoo
from core.__main__ import GROUPS, main, parser
from core.commands import listing, measure, train
from core.datasets import DATASETS
from core.errors import BadRecipe
from core.models import checkpoints
from core.recipe import MAX_JSON_BYTES, STEPS, Recipe
from core.store import Store

ROOT = Path(__file__).resolve().parents[2]
RUN = ["run", "--model", "resnet18", "--dataset", "digits", "--recipe"]
METRICS = {
    "top1", "top1_low", "top1_high", "top5", "images", "parameters", "nonzero", "macs", "paper_bytes", "artifact_bytes", "deployed_bytes", "provenance",
    "latencies",
}  # fmt: skip


@pytest.fixture
def call(capsys):
    """Calls the command line in this process; returns (exit status, standard output, standard error)."""

    def run(*arguments: str) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def refused(result: tuple[int, str, str]) -> str:
    """The one sentence of a refusal."""
    status, out, err = result
    assert status == 2 and out == "" and err.endswith(".\n") and err.count("\n") == 1 and "usage" not in err
    return err.strip()


def process(*arguments: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "core", *arguments], cwd=ROOT, capture_output=True, text=True, check=False, **options)


def test_lists_come_as_one_json_object(call):
    for command in ("models", "datasets", "steps"):
        status, out, err = call(command, "--json")
        listed = json.loads(out)
        assert status == 0 and err == "" and list(listed) == [command] and out.count("\n") == 1
        assert "NaN" not in out and "Infinity" not in out


def test_models_are_the_zoos(call):
    listed = json.loads(call("models", "--json")[1])["models"]
    assert [facts["name"] for facts in listed] == list(zoo.models()) and len(listed) >= 80
    assert {"smallest_input", "checkpoints"} <= set(listed[0])
    lines = call("models")[1].splitlines()
    assert lines[0].split()[0] == "model" and len(lines) == len(listed) + 1


def test_datasets_say_how_to_get_what_is_not_here(call, home):
    listed = {facts["name"]: facts for facts in json.loads(call("datasets", "--json")[1])["datasets"]}
    assert list(listed) == list(DATASETS) and listed["digits"]["here"] is True and listed["cifar10"]["here"] is False
    assert "--fetch cifar10" in listed["cifar10"]["reason"]
    out = call("datasets")[1]
    assert "--fetch cifar10" in out and re.search(r"^digits .* yes$", out, re.MULTILINE)


def test_steps_show_every_field_with_its_range(call):
    listed = {step["step"]: step for step in json.loads(call("steps", "--json")[1])["steps"]}
    assert list(listed) == list(STEPS)
    sparsity = next(field for field in listed["magnitude_prune"]["fields"] if field["name"] == "sparsity")
    assert (sparsity["type"], sparsity["default"], sparsity["low"], sparsity["high"]) == ("float", 0.8, 0.0, 0.99)
    out = call("steps")[1]
    for step in listed.values():
        assert step["about"] in out and all(field["accepted"] in out for field in step["fields"])


def test_what_the_listing_says_is_accepted_is(call):
    for step in json.loads(call("steps", "--json")[1])["steps"]:
        defaults = {field["name"]: field["default"] for field in step["fields"]}
        assert Recipe.from_json({"steps": [{"step": step["step"]} | defaults]}).steps[0].to_json() == {"step": step["step"]} | defaults


def test_lists_wait_for_nothing_that_measures():
    """What takes most of a second to import is not loaded to print what is known already."""
    script = "import sys; from core.__main__ import main; [main([name, '--json']) for name in ('models', 'datasets', 'steps')]; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()[-1].split()
    assert "core.zoo" in loaded and not {"torch", "torchvision", "sqlalchemy", "pandas", "plotly", "onnxruntime", "streamlit", "distributed"} & set(loaded)


def test_each_file_of_commands_adds_the_commands_it_is_known_for():
    def added(command: str | None = None) -> list[str]:
        return list(next(action.choices for action in parser(command)._actions if action.dest == "command"))

    assert added() == [name for names in GROUPS.values() for name in names]
    assert all(added(name) == list(names) for names in GROUPS.values() for name in names)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "The following arguments are required: COMMAND; "),
        (["runn"], "Argument COMMAND: invalid choice: 'runn' "),
        (["models", "--jsn"], "Unrecognized arguments: --jsn; "),
        (["models", "--js"], "Unrecognized arguments: --js; "),
        (["run", "--model", "resnet18"], "The following arguments are required: --dataset, --recipe; `python -m core run --help` says what is accepted."),
        (["run", "--model"], "Argument --model: expected one argument; "),
        (["train", "--model", "resnet18", "--dataset", "digits", "--epochs", "0"], "epochs cannot be '0'; it takes a whole number from 1 to 1,000."),
        (["train", "--model", "resnet18", "--dataset", "digits", "--epochs", "2.5"], "epochs cannot be '2.5'; it takes a whole number from 1 to 1,000."),
        (["train", "--model", "resnet18", "--dataset", "digits", "--learning-rate", "nan"], "learning_rate cannot be 'nan'; it takes a number above 0, "),
        (["train", "--model", "resnet18", "--dataset", "digits", "--seed", "-1"], "seed cannot be '-1'; it takes a whole number from 0 to 2,147,483,647."),
        (["train", "--model", "resnet18", "--dataset", "digits", "--weights", "big"], "Argument --weights: invalid choice: 'big' "),
        (["train", "--model", "resnet", "--dataset", "digits"], "There is no model named 'resnet'; did you mean "),
        (["train", "--model", "resnet18", "--dataset", "digit"], "There is no dataset named 'digit'; it takes one of digits, "),
        (["train", "--model", "resnet18", "--dataset", "cifar10"], "CIFAR-10 is not here: it has not been downloaded. Run "),
        (["datasets", "--fetch", "imagenet"], "There is no dataset named 'imagenet'; "),
        (["evaluate", "--artifact", "nowhere.bin", "--dataset", "digits"], "There is no file 'nowhere.bin'; --artifact takes one that "),
        (["evaluate", "--artifact", "nowhere.bin", "--dataset", "x"], "There is no dataset named 'x'; "),
        (["cluster", "--idle-timeout", "soon"], "idle_timeout cannot be 'soon'; it takes a number above 0, "),
        (["cluster", "--status", "--stop"], "Argument --stop: not allowed with argument --status; "),
    ],
)
def test_bad_arguments_are_one_sentence_and_status_2(call, home, arguments, sentence):
    assert refused(call(*arguments)).startswith(sentence)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{not json", "The recipe is not JSON (line 1, column 2); "),
        ("[1]", 'A recipe is an object with "steps" and "seed", not [1].'),
        ('{"steps": [{"step": "melt"}]}', "There is no step named 'melt'; "),
        ('{"steps": [{"step": "magnitude_prune", "sparsity": 2}]}', "magnitude_prune.sparsity cannot be 2; it takes a number from 0 to 0.99."),
        ('{"steps": [{"step": "magnitude_prune", "sparsity": NaN}]}', "magnitude_prune.sparsity cannot be nan; "),
        ('{"steps": [{"step": "magnitude_prune", "sparsity": "much"}]}', "magnitude_prune.sparsity cannot be 'much'; "),
        ('{"steps": [{"step": "magnitude_prune", "share": 0.5}]}', "magnitude_prune has no field named 'share'; "),
        ("", "The recipe is not JSON (line 1, column 1); "),
    ],
)
def test_bad_recipes_are_one_sentence_and_status_2(call, tmp_path, text, sentence):
    path = tmp_path / "recipe.json"
    path.write_text(text)
    assert refused(call(*RUN, path)).startswith(sentence)


def test_a_recipe_that_cannot_be_read_is_one_sentence(call, tmp_path):
    assert "No such file" in refused(call(*RUN, tmp_path / "none.json"))
    assert "Is a directory" in refused(call(*RUN, tmp_path))
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    assert "is not JSON" in refused(call(*RUN, tmp_path / "bytes.json"))


def test_a_huge_recipe_is_refused_without_being_read_whole(tmp_path):
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(50 * 2**30)  # sparse: takes no room on the disk, and reading it all would take minutes
    with pytest.raises(BadRecipe, match=f"is longer than {MAX_JSON_BYTES:,} bytes"):
        measure.read_recipe(str(path))
    path.write_bytes(b"{}" + b" " * (MAX_JSON_BYTES - 2))
    assert measure.read_recipe(str(path)) == Recipe()


def test_a_recipe_comes_from_standard_input(monkeypatch, tmp_path):
    (tmp_path / "recipe").write_text('{"seed": 5}')
    with open(tmp_path / "recipe") as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        assert measure.read_recipe("-") == Recipe(seed=5)


def test_a_place_that_cannot_hold_the_artifact_is_refused_before_any_work(call, tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    assert "is a folder" in refused(call(*RUN, tmp_path / "recipe.json", "--artifact", tmp_path))
    assert "does not exist" in refused(call(*RUN, tmp_path / "recipe.json", "--artifact", tmp_path / "no" / "file"))


def test_other_values_of_a_run_are_checked_before_any_work(call, tmp_path, home):
    path = tmp_path / "recipe.json"
    path.write_text("{}")
    assert refused(call("run", "--model", "resnet", "--dataset", "digits", "--recipe", path)).startswith("There is no model named 'resnet'")
    assert refused(call(*RUN, path, "--split", "train")) == "split cannot be 'train'; it takes one of validation, test."
    assert refused(call(*RUN, path, "--images", "0")).startswith("images cannot be '0'; ")
    assert refused(call(*RUN, path)).startswith("A checkpoint of resnet18 on digits is not here") or zoo.checkpoint("resnet18", "digits")


def test_a_damaged_artifact_is_one_sentence(call, tmp_path):
    for content in (b"", b"PSCP", b"\0" * 5_000):
        (tmp_path / "file").write_bytes(content)
        refused(call("evaluate", "--artifact", tmp_path / "file", "--dataset", "digits"))


@pytest.fixture
def recipe_file(tmp_path) -> Path:
    path = tmp_path / "recipe.json"
    path.write_text('{"steps": [{"step": "magnitude_prune", "sparsity": 0.5}, {"step": "quantize", "weight_bits": 4}]}')
    return path


def test_run_prints_one_object_with_every_promised_key(call, five_layer_checkpoint, recipe_file, tmp_path):
    asked = ("run", "--model", "five_layers", "--dataset", "digits", "--recipe", recipe_file, "--no-latency")
    status, out, _err = call(*asked, "--json", "--artifact", tmp_path / "model.bin")
    result = json.loads(out)
    assert status == 0 and out.count("\n") == 1 and "NaN" not in out
    assert {"model", "dataset", "recipe", "key", "split", "machine", "baseline", "metrics", "difference", "seconds"} <= set(result)
    assert set(result["metrics"]) >= METRICS and set(result["baseline"]) >= METRICS
    assert set(result["difference"]) == {"top1", "low", "high"} and {"compress", "evaluate", "total"} <= set(result["seconds"])
    assert result["key"] == Recipe.parse(recipe_file.read_bytes()).key() and result["split"] == "validation"
    assert result["metrics"]["images"] == 400 and result["baseline"]["top1"] == pytest.approx(five_layer_checkpoint.card["validation"]["top1"])
    assert (tmp_path / "model.bin").stat().st_size == result["metrics"]["artifact_bytes"] < result["baseline"]["artifact_bytes"]


def test_latencies_are_rows_of_every_promised_key(call, five_layer_checkpoint, tmp_path, monkeypatch):
    """Measured, if in a few short blocks; int8 has a row of its own where weights and activations have 8 bits."""
    from core.metrics import latency

    short = functools.partial(latency.measure, blocks=6, block_seconds=0.003, others=lambda: lambda: 0.0)
    monkeypatch.setattr(latency, "measure", short)
    recipe = tmp_path / "recipe.json"
    recipe.write_text('{"steps": [{"step": "quantize", "weight_bits": 8, "activation_bits": 8}]}')
    asked = ("run", "--model", "five_layers", "--dataset", "digits", "--images", "100", "--recipe", recipe)
    status, out, err = call(*asked, "--json")
    assert status == 0, err
    result = json.loads(out)
    promised = {"runtime", "threads", "batch", "ms_p10", "ms_p50", "ms_p90", "ratio", "ratio_low", "ratio_high"}
    expected = {"metrics": ["onnxruntime-float32", "onnxruntime-int8", "pytorch-float32"], "baseline": ["onnxruntime-float32", "pytorch-float32"]}
    for side, runtimes in expected.items():
        rows = result[side]["latencies"]
        assert [row["runtime"] for row in rows] == runtimes and all(promised <= set(row) for row in rows)
        assert all((row["threads"], row["batch"]) == (1, 1) and 0 < row["ms_p10"] <= row["ms_p50"] <= row["ms_p90"] for row in rows)
        assert all(0 < row["ratio_low"] <= row["ratio"] <= row["ratio_high"] for row in rows) and result[side]["deployed_bytes"] > 0
    assert all(row["ratio"] == 1 for row in result["baseline"]["latencies"])
    monkeypatch.setattr(latency, "measure", lambda *_, **__: pytest.fail("measured again"))
    assert json.loads(call(*asked, "--json")[1]) == result
    shown = call(*asked)[1]
    assert re.search(r"^onnxruntime-int8, CPU, 1 thread, batch 1 +– +[\d.]+ ms \(", shown, re.MULTILINE) and "Runs as" in shown


@pytest.mark.slow
def test_a_larger_input_is_trained_and_run(call, home, tmp_path, recipe_file):
    """48×48 in place of the dataset's 32×32: the card, the arithmetic and the packed file say so."""
    from core import artifact
    from tests import five_layers

    five_layers.register()
    status, _out, err = call("train", "--model", "five_layers", "--dataset", "digits", "--epochs", "4", "--learning-rate", "0.1", "--input-size", "48")
    assert status == 0, err
    card = zoo.checkpoint("five_layers", "digits").card
    assert card["input_size"] == 48 and card["stem"] == "plain torchvision stem at 48×48" and card["command"].endswith("--input-size 48")
    asked = ("run", "--model", "five_layers", "--dataset", "digits", "--recipe", recipe_file, "--no-latency", "--json")
    result = json.loads(call(*asked, "--artifact", tmp_path / "model.psc")[1])
    assert result["baseline"]["top1"] == pytest.approx(card["validation"]["top1"]) and result["baseline"]["top1"] > 30
    # Each convolution halves 48 as it halves 32, so each does (48 / 32)² times the work; the last layer does not.
    linear, at_32 = 32 * 10, 27 * 8 * 16**2 + 72 * 16 * 8**2 + 9 * 16 * 4**2 + 16 * 32 * 4**2
    assert result["metrics"]["macs"] == at_32 * 9 // 4 + linear
    assert artifact.read(tmp_path / "model.psc").architecture.input_size == 48
    again = json.loads(call("evaluate", "--artifact", tmp_path / "model.psc", "--dataset", "digits", "--json")[1])
    assert again["metrics"]["top1"] == result["metrics"]["top1"]


@pytest.mark.slow
def test_ctrl_c_ends_a_training_with_one_sentence_and_it_goes_on(tmp_path):
    variables = os.environ | {"PARETOSCOPE_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "core", "train", "--model", "squeezenet1_1", "--dataset", "digits", "--epochs", "40"]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests that run in the background are deaf to it, and their children with them
    training = subprocess.Popen(command, cwd=ROOT, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    signal.signal(signal.SIGINT, before)
    with training:
        end = time.monotonic() + 120
        while not list(tmp_path.glob("training/squeezenet1_1-digits-*.safetensors")):
            assert training.poll() is None and time.monotonic() < end
            time.sleep(0.02)
        training.send_signal(signal.SIGINT)
        out, err = training.communicate(timeout=60)  # all of the training takes longer
    said = err.splitlines()[-1]
    assert training.returncode == 130 and out == "" and "Traceback" not in err
    assert (found := re.fullmatch(r"Cancelled after (\d+) whole epochs?; the same command goes on from there\.", said)), err
    assert not (tmp_path / "checkpoints").exists()
    state = next(tmp_path.glob("training/*.safetensors"))
    with safetensors.safe_open(state, "np") as stored:
        assert int(stored.metadata()["epoch"]) == int(found[1])


def test_a_known_run_is_not_computed_again(call, five_layer_checkpoint, recipe_file, tmp_path, monkeypatch):
    from core import engine

    asked = ("run", "--model", "five_layers", "--dataset", "digits", "--recipe", recipe_file, "--no-latency", "--json")
    first = json.loads(call(*asked, "--artifact", tmp_path / "first.psc")[1])
    monkeypatch.setattr(engine, "run", lambda *_, **__: pytest.fail("computed again"))
    assert json.loads(call(*asked)[1]) == first
    status, out, _err = call(*asked, "--artifact", tmp_path / "second.psc")
    assert status == 0 and json.loads(out) == first
    assert (tmp_path / "second.psc").read_bytes() == (tmp_path / "first.psc").read_bytes()


@pytest.mark.slow
def test_a_run_is_left_to_the_cluster_where_one_runs(call, home, tmp_path):
    """A whole process, a real cluster: what a page submits and what a command runs is one thing. It is started, looked at and stopped by commands."""
    path = tmp_path / "recipe.json"
    path.write_text('{"steps": [{"step": "magnitude_prune", "sparsity": 0.5}]}')
    asked = ("run", "--model", "squeezenet1_1", "--dataset", "digits", "--recipe", str(path), "--no-latency", "--json")
    started = process("cluster", "--idle-timeout", "3")
    assert started.returncode == 0 and started.stdout.startswith("The cluster has been serving at tcp://127.0.0.1:"), started.stderr
    try:
        facts = json.loads(call("cluster", "--status", "--json")[1])
        assert facts["running"] and facts["address"].startswith("tcp://127.0.0.1:")
        done = process(*asked)
        assert done.returncode == 0, done.stderr
        with contextlib.closing(Store()) as store:
            row = store.find(json.loads(done.stdout)["identity"])
        assert row["owner"] and row["metrics"] == json.loads(done.stdout)["metrics"]
        status, again, err = call(*asked, "--artifact", tmp_path / "model.psc")
        assert (status, again) == (0, done.stdout), err
        assert (tmp_path / "model.psc").stat().st_size == row["metrics"]["artifact_bytes"]
        path.write_text('{"steps": [{"step": "quantize", "weight_bits": 4, "clipping": "mse"}, {"step": "calibrate_batchnorm"}]}')
        _status, shipped, _err = call("run", "--model", "squeezenet1_1", "--dataset", "fashion_mnist", "--recipe", path, "--no-latency", "--json")
        end = time.monotonic() + 120
        while Store().find(json.loads(shipped)["identity"])["origin"] != "here":
            assert time.monotonic() < end, "what was measured here takes the place of what was shipped"
            time.sleep(0.1)
    finally:
        stopped = process("cluster", "--stop")
    assert stopped.stdout == "Stopped.\n"
    with pytest.raises(ProcessLookupError):
        for _ in range(600):
            os.kill(facts["pid"], signal.SIG_DFL)
            time.sleep(0.1)


def test_evaluate_measures_what_run_measured(call, five_layer_checkpoint, recipe_file, tmp_path):
    artifact = tmp_path / "model.bin"
    asked = ("run", "--model", "five_layers", "--dataset", "digits", "--recipe", recipe_file, "--no-latency", "--images", "200", "--split", "test", "--json")
    ran = json.loads(call(*asked, "--artifact", artifact)[1])
    status, out, _err = call("evaluate", "--artifact", artifact, "--dataset", "digits", "--split", "test", "--images", "200", "--json")
    read_back = json.loads(out)
    assert status == 0 and read_back["key"] == ran["key"] and read_back["model"] == "five_layers" and read_back["split"] == "test"
    same = METRICS - {"latencies", "deployed_bytes", "provenance"}
    assert {name: read_back["metrics"][name] for name in same} == {name: ran["metrics"][name] for name in same}
    damaged = bytearray(artifact.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    artifact.write_bytes(damaged)
    refused(call("evaluate", "--artifact", artifact, "--dataset", "digits"))


def test_a_person_reads_before_after_and_the_ratio(call, five_layer_checkpoint, recipe_file):
    status, out, _err = call("run", "--model", "five_layers", "--dataset", "digits", "--recipe", recipe_file, "--no-latency")
    assert status == 0 and out.startswith("five_layers on digits, validation, n = 400: magnitude_prune → quantize\n")
    assert re.search(r"^Top-1 +[\d.]+ % \([\d.]+ … [\d.]+\) +[\d.]+ % .*[+−][\d.]+ points", out, re.MULTILINE)
    assert re.search(r"^Download +[\d.]+ kB +[\d.]+ kB +[\d.]+ × smaller$", out, re.MULTILINE)
    assert "Simulated, because no common kernel runs these grids: top1, top5." in out


def test_train_makes_a_checkpoint_with_a_card(call, home, tmp_path, five_layer_checkpoint):
    asked = ("train", "--model", "five_layers", "--dataset", "digits", "--epochs", "2", "--learning-rate", "0.05", "--seed", "4", "--out", tmp_path / "made")
    status, out, err = call(*asked)
    assert status == 0, err
    card = json.loads((tmp_path / "made" / "digits" / "five_layers.json").read_text())
    assert card["epochs"] == 2 and card["seed"] == 4 and card["learning_rate"] == 0.05 and card["threads"] == 1
    assert card["command"] == "python -m core train --model five_layers --dataset digits --epochs 2 --learning-rate 0.05 --seed 4"
    assert out.splitlines()[-1] == f"kept as {tmp_path / 'made' / 'digits' / 'five_layers.safetensors'}"
    assert f"validation: {card['validation']['top1']:.2f} % (" in out
    assert re.search(r"^ *50% five_layers on digits, \d+ s left, epoch 1\.0 of 2, loss [\d.]+, validation ", err, re.MULTILINE)


def test_the_usual_training_command_is_left_to_the_card():
    usual = {
        "model": "m",
        "dataset": "d",
        "epochs": 3,
        "learning_rate": None,
        "weight_decay": 5e-4,
        "seed": 0,
        "input_size": None,
        "weights": "none",
        "threads": 1,
    }
    assert train._command(type("Given", (), usual)) == ""


def test_what_a_cancelled_training_says_depends_on_what_was_done():
    assert checkpoints._farewell(0) == "Cancelled before the first epoch was whole; the same command starts anew."
    assert checkpoints._farewell(1) == "Cancelled after 1 whole epoch; the same command goes on from there."


def test_an_interrupt_is_status_130_without_a_traceback(call, monkeypatch):
    def interrupted(_given):
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "list_models", interrupted)
    assert call("models") == (130, "", "Cancelled.\n")


def test_an_unforeseen_error_is_one_sentence_and_its_traceback_is_kept(call, monkeypatch, home):
    def broken(_given):
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr(listing, "list_models", broken)
    status, out, err = call("models")
    log = home / "logs" / "command-line.log"
    assert (status, out) == (1, "")
    assert err == f"Something went wrong that should not have (ZeroDivisionError: division by zero); the details are in {log}.\n"
    assert "Traceback (most recent call last)" in log.read_text()


def test_a_home_that_cannot_be_written_is_one_sentence(call, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PARETOSCOPE_HOME", str(tmp_path / "file" / "home"))
    status, _out, err = call("cluster", "--status")
    assert status == 1 and err.startswith(f"The folder {tmp_path / 'file' / 'home'} cannot be made (") and err.count("\n") == 1


def test_a_reader_that_goes_away_is_not_complained_about():
    writer = subprocess.Popen([sys.executable, "-m", "core", "models"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer.stdout.close()
    assert writer.stderr.read() == b"" and writer.wait() == 1
    writer.stderr.close()


def test_help_explains_every_command(capsys):
    for command in ("models", "datasets", "steps", "train", "import", "convert", "run", "evaluate", "gallery", "cluster"):
        with pytest.raises(SystemExit) as ended:
            main([command, "--help"])
        assert ended.value.code == 0 and f"python -m core {command}" in capsys.readouterr().out


def test_no_cluster_is_said_so_and_nothing_is_started(call, home):
    assert call("cluster", "--status") == (0, "No cluster is running; it starts when it is needed (0 running, 0 waiting).\n", "")
    assert json.loads(call("cluster", "--status", "--json")[1]) == {"running": False, "waiting_runs": 0, "running_runs": 0}
    assert call("cluster", "--stop") == (0, "No cluster was running.\n", "")
