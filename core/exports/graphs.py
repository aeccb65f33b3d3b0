"""A network as data: torch.fx's graph in JSON inside a safetensors file, of torch's own layers and functions alone.

    plain(subject)   what is measured, with rounded activations written out
    write(graph)     its weights, and in the metadata "graph": layers and nodes
    read(data)       the same graph again, with the same answers

    layers   {path: [class of torch.nn, arguments]}
    nodes    [name, operation of torch.fx, target, positional arguments, named arguments], {"node": name} for what another node gives

`core/exports/scripts/run_torch.py` reads the same without Paretoscope.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx, nn

from core.arithmetic.activations import measured, rounded_by_picture
from core.arithmetic.folding import SMALLEST_SCALE, graph_of
from core.errors import BadArtifact, BadInput
from core.exports.windows import shapes_of, written_out

if TYPE_CHECKING:
    from core.weights import Compressed

ROOTS = ("torch", "operator", "builtins", "math")
NOTHING = (nn.Identity, nn.Dropout, nn.Dropout2d)  # in eval mode
NOTHING_CALLED = ("dropout", "stochastic_depth")


def plain(subject: Compressed) -> fx.GraphModule:
    """The network that accuracy is measured with, as plain layers and functions; raises `BadInput` when torch.fx cannot follow it."""
    module = measured(subject)
    if any(grid.dynamic for grid in subject.activations.values()):
        module = _written_out(module, subject.architecture.input_size)
    return flat(module, subject.architecture.input_size)


def flat(module: nn.Module, input_size: int) -> fx.GraphModule:
    """`module` in eval mode as a graph that leaves out what does nothing then, and writes out windows' attention.

    `meta["left_out"]` names the node that each of those passed on, or that is in its place.
    """
    with torch.no_grad():
        graph = graph_of(module.eval(), "exports need a model that torch.fx can trace")
    found, left_out = fx.GraphModule(module, graph), {}
    for node in list(graph.nodes):
        layer = found.get_submodule(node.target) if node.op == "call_module" else None
        if isinstance(layer, NOTHING) or node.op == "call_function" and getattr(node.target, "__name__", "") in NOTHING_CALLED:
            left_out[node.name] = node.args[0].name
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    made = fx.GraphModule(found, graph).eval()
    written = written_out(made, input_size)
    made.meta["left_out"] = {name: written.get(other, other) for name, other in left_out.items()} | written
    return made


def answering(module: nn.Module):
    """Logits of `module` as numpy arrays, in inference mode."""

    @torch.inference_mode()
    def logits(pictures) -> np.ndarray:
        return module(torch.as_tensor(pictures)).numpy()

    return logits


def write(module: fx.GraphModule, grids: dict | None = None) -> bytes:
    """Every tensor that the graph reads, and the graph; raises `BadInput` when it has a layer or function that torch does not ship.

    `grids` go along as JSON, for the converter to TensorFlow Lite.
    """
    from safetensors.torch import save

    layers, read = {}, {}
    for node in module.graph.nodes:
        if node.op == "call_module":
            layer = module.get_submodule(node.target)
            layers[node.target] = [_class(layer), _arguments(layer)]
            read |= {f"{node.target}.{name}": tensor for name, tensor in layer.state_dict().items()}
        elif node.op == "get_attr":
            read[node.target] = functools.reduce(getattr, node.target.split("."), module).detach()
    graph = {"layers": layers, "nodes": [written for node in module.graph.nodes for written in _nodes(node)]}
    tensors = {name: tensor.detach().contiguous().clone() for name, tensor in read.items()}  # never two names for one memory
    also = {} if grids is None else {"grids": json.dumps(grids)}
    return save(tensors, {"format": "pt", "graph": json.dumps(graph, separators=(",", ":"))} | also)


def grids(data: bytes) -> dict:
    """The grids that `write` was given."""
    return json.loads(_metadata(data)["grids"])


def _metadata(data: bytes) -> dict[str, str]:
    return json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]


def read(data: bytes) -> fx.GraphModule:
    """The module that `write` was given; raises `BadArtifact` when there is no such graph in the file."""
    from safetensors.torch import load

    try:
        described = json.loads(_metadata(data)["graph"])
    except (ValueError, KeyError, TypeError):
        raise BadArtifact("This safetensors file holds no graph; it takes one that `python -m core export --format safetensors` wrote.") from None
    root, tensors = nn.Module(), load(data)
    for path, (kind, given) in described["layers"].items():
        layer = getattr(nn, kind)(**given)
        layer.load_state_dict({name[len(path) + 1 :]: tensor for name, tensor in tensors.items() if name.startswith(f"{path}.")})
        _owner(root, path).add_module(path.rpartition(".")[2], layer)
    graph, made = fx.Graph(), {}
    for name, operation, target, args, kwargs in described["nodes"]:
        if operation == "get_attr":
            _owner(root, target).register_buffer(target.rpartition(".")[2], tensors[target])
        aim = _function(target) if operation == "call_function" else target
        named = {word: _value(value, made) for word, value in kwargs.items()}
        made[name] = graph.create_node(operation, aim, tuple(_value(value, made) for value in args), named, name)
    return fx.GraphModule(root, graph).eval()


def _written_out(module: fx.GraphModule, input_size: int) -> fx.GraphModule:
    """The graph whose tensors are rounded by each picture's own range, by functions that know how many dimensions there are."""
    shapes = shapes_of(module, input_size)
    for node in module.graph.nodes:
        if node.target is rounded_by_picture:
            node.target, node.args = _by_picture, (*node.args, tuple(range(1, len(shapes[node.args[0].name]))))
    return fx.GraphModule(module, module.graph)


def _by_picture(value: torch.Tensor, bits: int, dims: tuple[int, ...]) -> torch.Tensor:
    """`core.arithmetic.activations.rounded_by_picture`, for a tensor of which only the dimensions are known."""
    low, high = value.amin(dims, keepdim=True).clamp(max=0), value.amax(dims, keepdim=True).clamp(min=0)
    scale = ((high - low) / (2**bits - 1)).clamp(min=SMALLEST_SCALE)
    zero = torch.round(-low / scale)
    codes = torch.minimum(torch.maximum(torch.round(value / scale), -zero), 2**bits - 1 - zero)
    return value + (codes * scale - value)


def _class(layer: nn.Module) -> str:
    name = type(layer).__name__
    if getattr(nn, name, None) is not type(layer):
        raise BadInput(f"The layer {type(layer).__module__}.{name} is none of torch's own, so torch alone could not run the file; take ONNX instead.")
    return name


def _arguments(layer: nn.Module) -> dict[str, Any]:
    """What makes such a layer again: the arguments of its class that differ from the default, as the layer remembers them."""
    found = {}
    for name, parameter in inspect.signature(type(layer).__init__).parameters.items():
        value = getattr(layer, name, parameter.default)
        value = value is not None if name == "bias" and hasattr(layer, "bias") else value
        if name not in ("self", "device", "dtype", "inplace") and value != parameter.default and not callable(value):
            found[name] = value
    return found


def _nodes(node: fx.Node) -> list[list]:
    """A node in JSON, after one for each slice among its arguments."""
    slices: list[list] = []
    target = node.target if isinstance(node.target, str) else _name(node.target)
    args = [_coded(value, node.name, slices) for value in node.args]
    return [*slices, [node.name, node.op, target, args, {name: _coded(value, node.name, slices) for name, value in node.kwargs.items()}]]


def _name(function) -> str:
    """`torch.flatten`, `operator.add`: the function's place in a module."""
    name = fx.node._get_qualified_name(function).replace("_operator.", "operator.")
    name = name if "." in name else f"builtins.{name}"
    if name.partition(".")[0] not in ROOTS:
        raise BadInput(f"The function {name} is none of torch's own, so torch alone could not run the file; take ONNX instead.")
    return name


def _function(name: str):
    root, *rest = name.split(".")
    if root not in ROOTS:
        raise BadArtifact(f"A graph calls the function {name}; it takes functions of {', '.join(ROOTS)}.")
    module = importlib.import_module(root)
    for number, part in enumerate(rest):
        module = getattr(module, part) if hasattr(module, part) else importlib.import_module(".".join([root, *rest[: number + 1]]))
    return module


def _coded(value: Any, node: str, slices: list[list]) -> Any:
    """An argument of a node in JSON."""
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, slice):
        name = f"{node}_slice_{len(slices)}"
        slices.append([name, "call_function", "builtins.slice", [_coded(part, node, slices) for part in (value.start, value.stop, value.step)], {}])
        return {"node": name}
    if isinstance(value, (tuple, list)):
        return [_coded(part, node, slices) for part in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise BadInput(f"The graph of this model has an argument {str(value)[:60]!r} that has no form in JSON; take ONNX instead.")


def _value(coded: Any, made: dict[str, Any]) -> Any:
    if isinstance(coded, dict):
        return made[coded["node"]]
    return tuple(_value(part, made) for part in coded) if isinstance(coded, list) else coded


def _owner(root: nn.Module, path: str) -> nn.Module:
    """The module that a path's last name belongs to, made on the way."""
    for name in path.split(".")[:-1]:
        if name not in root._modules:
            root.add_module(name, nn.Module())
        root = root._modules[name]
    return root
