"""The list of models against torchvision, and the sizes that pictures are brought to."""

import json

import pytest
import torch
import torchvision

from core import zoo
from core.arithmetic import channels
from core.errors import BadField, UnknownName
from core.metrics import cost
from core.models import model_list
from core.models.architecture import Architecture, skeleton
from core.weights import weights_of

LISTED = [entry["name"] for entry in json.loads(zoo.MODELS_FILE.read_text())["models"]]
NOT_PRUNABLE: dict[str, dict[str, str]] = {}  # family → model → why none of its channels can go: today some of every model's can
SMALLEST = {  # of each family → whether some of its layers keep all of their channels
    "alexnet": False, "convnext_tiny": True, "densenet121": False, "efficientnet_b0": False, "googlenet": False, "inception_v3": False,
    "lenet_300_100": False, "maxvit_t": True, "mnasnet0_5": False, "mobilenet_v2": False, "mobilenet_v3_small": False, "regnet_y_400mf": False,
    "resnet18": False, "shufflenet_v2_x0_5": True, "squeezenet1_1": False, "swin_t": True, "vgg11": False, "vit_b_32": True,
}  # fmt: skip
QUICK = ("googlenet", "lenet_300_100", "mobilenet_v2", "shufflenet_v2_x0_5", "squeezenet1_1")


def test_the_list_holds_torchvisions_80_classifiers_and_the_teaching_models_in_order():
    teaching = [name for name, facts in zoo.models().items() if facts.get("teaching")]
    own = [name for name in LISTED if name not in teaching]
    assert own == sorted(torchvision.models.list_models(module=torchvision.models)) and len(own) == 80
    assert sorted([*own, *teaching]) == LISTED == model_list.names() and teaching == ["lenet_300_100", "lenet_5"]
    stored = json.loads(zoo.MODELS_FILE.read_text())
    assert (stored["torchvision"], stored["classes"]) == (torchvision.__version__.partition("+")[0], model_list.CLASSES)


@pytest.mark.parametrize("name", LISTED)
def test_what_the_list_says_of_a_model_is_so(name):
    facts = zoo.models()[name]
    module = skeleton(name, model_list.CLASSES, facts["smallest_input"])  # weights take no memory, shapes are real
    assert facts["parameters"] == cost.parameters(module)
    assert facts["weights"] == [name for name, _parameter in weights_of(module)]
    assert facts["batch_norm"] == any(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules())
    assert facts["imagenet_weights"] == (not facts.get("teaching") and len(torchvision.models.get_model_weights(name)) > 0)
    assert facts["channel_prunable"] == NOT_PRUNABLE.get(facts["family"], {}).get(name, True)
    assert facts["family"] and facts["smallest_input"] in model_list.SIZES and facts["input_step"] in (*model_list.STEPS, zoo.LARGEST_INPUT)


@pytest.mark.parametrize(
    "name",
    ["squeezenet1_1", "alexnet", "lenet_300_100", "lenet_5", *(pytest.param(name, marks=pytest.mark.slow) for name in ("mobilenet_v3_small", "vit_b_32"))],
)
def test_measuring_a_model_again_gives_what_the_list_says(name):
    known = zoo.models()[name]
    assert model_list.smallest_input(name) == known["smallest_input"]
    assert model_list.input_step(name, known["smallest_input"]) == known["input_step"]
    assert cost.macs(Architecture.plain(name, 10, known["smallest_input"]).build(), known["smallest_input"]) == known["macs"]


def test_models_that_are_not_prunable_are_those_of_the_list_and_say_why():
    stored: dict[str, dict[str, str]] = {}
    for name, facts in zoo.models().items():
        if name in LISTED and facts["channel_prunable"] is not True:
            stored.setdefault(facts["family"], {})[name] = facts["channel_prunable"]
    assert stored == NOT_PRUNABLE
    families = [zoo.models()[name]["family"] for name in SMALLEST]
    assert sorted(families) == sorted({zoo.models()[name]["family"] for name in LISTED})
    assert {family for family, partly in zip(families, SMALLEST.values(), strict=True) if partly} == set(channels.WHOLE)


@pytest.mark.parametrize("name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in SMALLEST])
def test_of_each_family_what_the_list_says_of_its_channels_is_measured_again(name):
    facts = zoo.models()[name]
    size = facts["smallest_input"]
    assert model_list.channel_prunable(name, size) == facts["channel_prunable"]
    module = Architecture.plain(name, 10, size).build()
    assert bool(channels.untouched(module, channels.groups(module, size))) == SMALLEST[name]


def test_a_model_whose_channels_are_tied_unseen_is_not_called_prunable(monkeypatch):
    """The check is not vacuous: without the cut at the shuffles, or with a group half seen, it says so."""
    assert model_list.channel_prunable("shufflenet_v2_x0_5", 32) is True
    found = model_list.channels.groups

    def blind(module, size):
        return [group.__class__(group.layer, group.units, group.width, tuple(_misled(part) for part in group.parts)) for group in found(module, size)]

    def _misled(part):
        return part.__class__(part.layer, part.side, part.kind, part.channels, part.units.flip(0)) if part.side == "in" else part

    monkeypatch.setattr(model_list.channels, "groups", blind)
    assert isinstance(model_list.channel_prunable("shufflenet_v2_x0_5", 32), str)


def test_what_the_list_has_need_not_be_measured_again(monkeypatch):
    monkeypatch.setattr(model_list, "names", lambda: ["lenet_5", "vgg11"])
    assert model_list.measure(known={"vgg11": {"name": "as it was"}}) == [zoo.models()["lenet_5"], {"name": "as it was"}]


def test_the_written_list_is_what_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(model_list, "names", lambda: ["squeezenet1_1", "lenet_300_100"])
    events = []
    zoo.write_models(events.append, tmp_path / "models.json")
    written = json.loads((tmp_path / "models.json").read_text())["models"]
    assert written == [zoo.models()["squeezenet1_1"], zoo.models()["lenet_300_100"]]
    assert [event["fraction"] for event in events] == [0, 0.5]


@pytest.mark.parametrize(
    ("model", "wanted", "given"),
    [
        ("resnet18", 32, 32), ("resnet18", 8, 32), ("resnet18", 33, 33), ("resnet18", 512, 512), ("alexnet", 32, 64), ("vit_b_16", 33, 48),
        ("vit_b_32", 512, 512), ("vit_h_14", 32, 56), ("vit_h_14", 512, 504), ("maxvit_t", 32, 224), ("maxvit_t", 300, 448),
    ],
)  # fmt: skip
def test_pictures_get_a_size_that_the_model_reads(model, wanted, given):
    assert zoo.input_size(model, wanted) == given


@pytest.mark.parametrize("wanted", [7, 513, 0, -1, 32.0, True, None, "32", float("nan")])
def test_other_sizes_are_refused(wanted):
    with pytest.raises(BadField):
        zoo.input_size("resnet18", wanted)


def test_an_unknown_model_is_named_with_those_meant():
    with pytest.raises(UnknownName, match="resnet18"):
        zoo.check_model("resnet19")
    with pytest.raises(UnknownName):
        zoo.check_model(None)


@pytest.mark.parametrize("model", ["squeezenet1_1", "googlenet"])
def test_build_gives_a_fresh_network_in_eval_mode(model):
    torch.manual_seed(0)
    first = zoo.build(model, 7, 32)
    torch.manual_seed(0)
    again = zoo.build(model, 7, 32)
    assert not first.training and tuple(first(torch.zeros(2, 3, 32, 32)).shape) == (2, 7)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    kernels = [parameter for parameter in first.parameters() if parameter.dim() == 4]
    assert all(kernel.is_contiguous(memory_format=torch.channels_last) for kernel in kernels)
