"""Networks as graphs in a safetensors file: the same answers to the last bit, read by us and by the script that needs torch alone."""

from __future__ import annotations

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save
from torchvision.models.swin_transformer import PatchMerging, PatchMergingV2, SwinTransformerBlock, SwinTransformerBlockV2

import core
from core.errors import BadArtifact, BadInput
from core.exports import graphs
from core.runtimes import litert, tflite

SCRIPT = Path(core.__file__).parent / "exports" / "scripts" / "run_torch.py"
SHEET = {
    "run": "",
    "format": "safetensors",
    "picture": {"size": 32, "resize": 32, "channels": 3},
    "mean": [0, 0, 0],
    "std": [1, 1, 1],
    "fit": None,
    "input": [None, 3, 32, 32],
}
NETWORKS = {
    "channels shuffled": lambda: torchvision.models.shufflenet_v2_x0_5(num_classes=10),
    "squeeze and excitation": lambda: torchvision.models.mobilenet_v3_small(num_classes=10),
    "concatenated": lambda: torchvision.models.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10),
    "attention in windows": lambda: torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [4, 4], num_classes=10),
    "attention": lambda: torchvision.models.VisionTransformer(32, 16, 2, 2, 32, 64, num_classes=10),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_comes_back_and_the_script_reads_it_too(name, tmp_path):
    torch.manual_seed(0)
    module = NETWORKS[name]().eval()
    if name == "attention":
        torch.nn.init.normal_(module.heads.head.weight)
    x = torch.randn(3, 3, 32, 32)
    before = torch.get_num_threads()
    data = graphs.write(graphs.flat(module, 32))
    (tmp_path / "m.safetensors").write_bytes(data)
    (tmp_path / "m.safetensors.json").write_text(json.dumps(SHEET))
    shutil.copy(SCRIPT, tmp_path / "m.safetensors.py")
    try:
        script = runpy.run_path(str(tmp_path / "m.safetensors.py"))
        with torch.inference_mode():
            expected, found = module(x), graphs.read(data)(x)
        assert len(expected.unique()) > 20 and torch.equal(found, expected)
        np.testing.assert_array_equal(script["run"](x.numpy()), expected.numpy())
    finally:
        torch.set_num_threads(before)


SWIN = {"first": (SwinTransformerBlock, PatchMerging), "second": (SwinTransformerBlockV2, PatchMergingV2)}


@pytest.mark.parametrize("version", SWIN)
@pytest.mark.parametrize(("size", "patch", "window"), [(32, 4, 4), (36, 4, 4), (32, 2, 7), (16, 4, 7), (12, 4, 2)])
def test_attention_in_windows_is_written_out_in_torchs_own_functions(version, size, patch, window):
    """Whole windows and padded ones, shifted or larger than the picture, pictures of odd sides: bit for bit torchvision's answers, for any batch."""
    torch.manual_seed(0)
    block, merging = SWIN[version]
    module = torchvision.models.SwinTransformer([patch] * 2, 8, [2, 2], [2, 2], [window] * 2, num_classes=10, block=block, downsample_layer=merging).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 3, size, size)
    with torch.inference_mode():
        assert torch.equal(graphs.read(graphs.write(graphs.flat(module, size)))(x), module(x))


@pytest.mark.slow
@pytest.mark.skipif(litert.missing() is not None, reason="LiteRT is not here")
@pytest.mark.parametrize("version", SWIN)
def test_windows_are_converted_for_litert_down_to_a_single_place(version):
    torch.manual_seed(0)
    block, merging = SWIN[version]
    module = torchvision.models.SwinTransformer([4, 4], 8, [2, 2], [2, 2], [2, 2], num_classes=10, block=block, downsample_layer=merging).eval()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    x = torch.randn(3, 3, 8, 8)
    data = tflite.converted(graphs.write(graphs.flat(module, 8)), "float32", "swin", 8)
    with torch.inference_mode():
        np.testing.assert_allclose(litert.logits(litert.interpreter(data), x), module(x).numpy(), atol=1e-5)


def test_what_torch_does_not_ship_is_refused():
    graph = torch.fx.Graph()
    graph.output(graph.call_function(torchvision.ops.box_area, (graph.placeholder("x"),)))
    with pytest.raises(BadInput, match=r"^The function torchvision\.\S+ is none of torch's own, so torch alone could not run the file; take ONNX instead\.$"):
        graphs.write(torch.fx.GraphModule(torch.nn.Module(), graph))


@pytest.mark.parametrize("data", [b"", save({"a": torch.zeros(1)}), save({"a": torch.zeros(1)}, {"graph": "nothing"})])
def test_a_file_without_a_graph_is_refused(data):
    with pytest.raises(BadArtifact, match="holds no graph"):
        graphs.read(data)


def test_a_graph_calls_nothing_but_torch():
    graph = {"layers": {}, "nodes": [["x", "placeholder", "x", [], {}], ["bad", "call_function", "os.system", ["true"], {}]]}
    with pytest.raises(BadArtifact, match=r"calls the function os\.system; it takes functions of torch"):
        graphs.read(save({"a": torch.zeros(1)}, {"graph": json.dumps(graph)}))
