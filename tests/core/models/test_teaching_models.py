"""The two LeNets against their papers' counts and a network written by hand, and the steps that change shapes on them."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from core import engine, zoo
from core.datasets import load
from core.errors import BadRecipe, NotHere
from core.metrics import cost
from core.models import teaching_models
from core.models.architecture import Architecture
from core.recipe import Recipe
from core.work import Work

LENETS = list(teaching_models.MODELS)
# Weights and biases of each layer, in the order of the network: LeCun et al. 1998; Deep Compression (arXiv:1510.00149), tables 2 and 3
LAYERS = {
    "lenet_300_100": [784 * 300 + 300, 300 * 100 + 100, 100 * 10 + 10],
    "lenet_5": [25 * 20 + 20, 25 * 20 * 50 + 50, 800 * 500 + 500, 500 * 10 + 10],
}
PUBLISHED = {"lenet_300_100": (266_610, 1070, ["235K", "30K", "1K"]), "lenet_5": (431_080, 1720, ["0.5K", "25K", "400K", "5K"])}


@pytest.mark.parametrize("model", LENETS)
def test_they_have_the_papers_own_parameters(model):
    module = Architecture.plain(model, 10, 32).build()
    layers = [layer for layer in module.modules() if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear))]
    assert [sum(parameter.numel() for parameter in layer.parameters()) for layer in layers] == LAYERS[model]
    parameters, kilobytes, table = PUBLISHED[model]
    assert cost.parameters(module) == zoo.models()[model]["parameters"] == parameters
    assert round(4 * parameters, -4) == 1000 * kilobytes
    assert [f"{layer.weight.numel() / 1000:{'.1f' if layer.weight.numel() < 1000 else '.0f'}}K" for layer in layers] == table
    assert zoo.models()[model]["teaching"] and not zoo.models()[model]["batch_norm"]


def test_what_they_read_is_the_original_picture():
    dataset = load("fashion_mnist")
    images = dataset.split("test").images[:20]  # (20, 1, 28, 28)
    mean, std = (torch.tensor(value).view(1, 1, 1, 1) for value in (dataset.source.mean, dataset.source.std))
    assert torch.equal(teaching_models.grey(dataset.prepare(images, 32)), (torch.from_numpy(images).float() / 255 - mean) / std)


def test_they_compute_what_the_formulas_say():
    x = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    picture = x[:, 0, 2:-2, 2:-2].double()
    torch.manual_seed(0)
    dense, conv = (zoo.build(model, 10, 32).double() for model in ("lenet_300_100", "lenet_5"))
    w = [parameter.detach().numpy() for parameter in dense.parameters()]
    rows = picture.flatten(1).numpy()
    hidden = np.maximum(0, np.maximum(0, rows @ w[0].T + w[1]) @ w[2].T + w[3])
    np.testing.assert_allclose(dense(x.double()).detach().numpy(), hidden @ w[4].T + w[5], atol=1e-12)
    v = [parameter.detach() for parameter in conv.parameters()]
    maps = F.max_pool2d(F.conv2d(picture[:, None], v[0], v[1]), 2).relu()  # a ReLU may as well come behind the pool
    maps = F.max_pool2d(F.conv2d(maps, v[2], v[3]), 2).relu()
    expected = F.linear(F.linear(maps.flatten(1), v[4], v[5]).relu(), v[6], v[7])
    torch.testing.assert_close(conv(x.double()), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("model", LENETS)
def test_they_read_one_size_only(model):
    assert [zoo.input_size(model, wanted) for wanted in (8, 32, 33, 64, 512)] == [32] * 5
    with pytest.raises(BadRecipe, match="reads only 32×32"):
        zoo.check_reads(model, 64)
    with pytest.raises(NotHere, match="there are none"):
        zoo.build(model, 10, 32, imagenet=True)


STEPS = [
    [{"step": "channel_prune", "sparsity": 0.5}],
    [{"step": "channel_prune", "sparsity": 0.5, "importance": "entropy", "scope": "layer"}, {"step": "quantize", "weight_bits": 8, "activation_bits": 8}],
    [{"step": "student", "width": 0.5}],
    [{"step": "factorize"}],
    [{"step": "equalize"}, {"step": "quantize", "weight_bits": 4, "clipping": "mse"}, {"step": "correct_bias"}],
    [{"step": "magnitude_prune", "sparsity": 0.9}, {"step": "share_weights", "clusters": 16}],
    [{"step": "entropy_prune"}, {"step": "binarize", "activations": True}],
]


@pytest.mark.parametrize("model", LENETS)
@pytest.mark.parametrize("steps", STEPS, ids=lambda steps: "-".join(step["step"] for step in steps))
def test_every_kind_of_step_works_on_them(model, steps, tmp_path):
    from core import artifact
    from core.runtimes import onnx

    work = Work(model, "fashion_mnist", Recipe.from_json({"steps": steps}), images=250)
    subject = engine.compress(work)
    x, _labels = next(load("fashion_mnist").batches("validation", 32, 64, 64))
    path = tmp_path / "small.psc"
    artifact.write(subject, path, work.recipe)
    back = artifact.read(path)
    with torch.no_grad():
        assert torch.equal(back.module(x), subject.module(x))
        given = onnx.logits(onnx.session(onnx.export_float32(subject.module, 32)), x)
        np.testing.assert_allclose(given, subject.module(x).numpy(), atol=1e-3)
    if subject.activations and onnx.int8_possible(subject) is None:
        from core.arithmetic.activations import measured

        with torch.no_grad():
            simulated = measured(subject)(x).argmax(1).numpy()
        assert (onnx.logits(onnx.session(onnx.export_int8(subject)), x).argmax(1) == simulated).mean() >= 0.98
    if steps[0]["step"] in ("channel_prune", "student"):
        assert cost.parameters(subject.module) < 0.8 * zoo.models()[model]["parameters"]


@pytest.mark.parametrize("model", LENETS)
def test_without_its_channels_it_computes_what_the_whole_one_does_with_them_ignored(model):
    from core.arithmetic import channels

    whole = zoo.build(model, 10, 32)
    found = channels.groups(whole, 32)
    whole.double()
    assert [group.units for group in found] == ([300, 100] if model == "lenet_300_100" else [20, 50, 500])
    chosen = [(group, torch.arange(0, group.units, 2)) for group in found]
    smaller = copy.deepcopy(whole)
    channels.remove(smaller, chosen)
    channels.disconnect(whole, chosen)
    x = torch.randn(3, 3, 32, 32, dtype=torch.double)
    with torch.no_grad():
        torch.testing.assert_close(smaller(x), whole(x))


def test_a_lenet_can_be_the_student_of_a_torchvision_model():
    recipe = Recipe.from_json({"steps": [{"step": "student", "model": "lenet_5", "width": 1.0}]})
    subject = engine.compress(Work("squeezenet1_1", "fashion_mnist", recipe, images=100))
    assert subject.architecture.model == "lenet_5" and cost.parameters(subject.module) == 431_080
