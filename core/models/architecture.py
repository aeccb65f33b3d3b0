"""An architecture as data: a torchvision name, its head, its input size, which layers are factors, which parameters have other shapes.

What a checkpoint of a pruned model, a kept prefix and a packed file say about shapes; never a pickled module. From this
and a state dict the same network comes back, bit for bit. Factors come first: the shapes are those of the factored
network. Modules are built with their parameters on the meta device, which skips torchvision's initialisation (1.5 s for
vgg16), and get zeros only once their last shapes are known.
"""

from __future__ import annotations

import contextlib
import functools
import json
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from core import zoo
from core.arithmetic.factors import factor_shapes, is_form, put_factors
from core.errors import BadArtifact, BadInput

LARGEST_HEAD = 100_000  # classes
KEYS = ("model", "classes", "input_size", "shapes")
FACTORS = "factors"  # a key that only a factored network has


@dataclass(frozen=True)
class Architecture:
    """`factors` maps layer paths to the form of the factors in their place (`core.arithmetic.factors`): `{"fc": ["svd", 4]}`.

    `shapes` maps parameter names to their shapes, only where they differ from torchvision's own, or from those of whole factors.
    """

    model: str
    classes: int
    input_size: int
    shapes: dict[str, list[int]] = field(default_factory=dict)
    factors: dict[str, list] = field(default_factory=dict)

    @staticmethod
    def plain(model: str, classes: int, input_size: int) -> Architecture:
        """Torchvision's own shapes."""
        return Architecture(model, classes, input_size)

    def to_json(self) -> dict:
        plain = {"model": self.model, "classes": self.classes, "input_size": self.input_size, "shapes": self.shapes}
        return plain | ({FACTORS: self.factors} if self.factors else {})

    @staticmethod
    def from_json(value: Any) -> Architecture:
        """The architecture that `to_json` gave; raises `BadArtifact` for anything that could not be one."""
        if not isinstance(value, dict) or sorted(map(str, value.keys() - {FACTORS})) != sorted(KEYS):
            raise BadArtifact(f"An architecture is an object with the keys {', '.join(KEYS)}, and {FACTORS} where it has some, not {_short(value)}.")
        model, classes, size, shapes = (value[key] for key in KEYS)
        try:
            zoo.check_model(model)
            if zoo.input_size(model, size) != size:
                raise BadArtifact(f"{model} cannot read pictures of {size}×{size}; the next size it takes is {zoo.input_size(model, size)}.")
        except BadInput as error:
            raise BadArtifact(str(error)) from None
        if not _whole(classes) or not 1 <= classes <= LARGEST_HEAD:
            raise BadArtifact(f"The number of classes cannot be {_short(classes)}; it takes a whole number from 1 to {LARGEST_HEAD}.")
        if not isinstance(shapes, dict):
            raise BadArtifact(f'"shapes" cannot be {_short(shapes)}; it takes an object from parameter names to shapes.')
        factors = _checked_factors(model, classes, size, value.get(FACTORS, {}))
        own = _own_shapes(model, classes, size, factors)
        for name, shape in shapes.items():
            _check_shape(model, name, shape, own)
        return Architecture(model, classes, size, {name: list(shape) for name, shape in shapes.items()}, factors)

    def build(self) -> nn.Module:
        """A module of these shapes, its weights 0, in eval mode, channels_last; raises `BadArtifact` when the shapes cannot be.

        Consumes no random numbers.
        """
        module = skeleton(self.model, self.classes, self.input_size)
        for path, form in self.factors.items():
            put_factors(module, path, form)
        owners: dict[str, dict[str, list[int]]] = {}
        for name, shape in self.shapes.items():
            path, _, kind = name.rpartition(".")
            owners.setdefault(path, {})[kind] = shape
        for path, wanted in owners.items():
            _reshape(path, module.get_submodule(path), wanted)
        allocate(module)
        module.eval()
        if self.shapes:
            self._check_fit(module)
        return module

    def of(self, module: nn.Module) -> Architecture:
        """The architecture of `module`, which was this one and has been reshaped since."""
        own = _own_shapes(self.model, self.classes, self.input_size, self.factors)
        shapes = {name: list(parameter.shape) for name, parameter in module.named_parameters() if tuple(parameter.shape) != own[name]}
        return replace(self, shapes=shapes)

    def whole(self, name: str) -> str:
        """The weight that a factor's weight stands in for (`fc.weight` of `fc.0.weight`); any other name as it is."""
        path, _, kind = name.rpartition(".")
        layer = path.rpartition(".")[0]
        return f"{layer}.{kind}" if layer in self.factors else name

    def factored(self, module: nn.Module, factors: dict[str, list]) -> Architecture:
        """The architecture of `module`, which was this one until these layers became factors."""
        return replace(self, factors=self.factors | factors).of(module)

    def _check_fit(self, module: nn.Module) -> None:
        """Run the shapes through the network once; what fits is remembered."""
        key = json.dumps(self.to_json(), sort_keys=True)
        if key in _FITS:
            return
        try:
            fits = tuple(probe(module, self.input_size).shape) == (1, self.classes)
        except (RuntimeError, ValueError, TypeError, IndexError):
            fits = False
        if not fits:
            raise BadArtifact(f"The recorded shapes of {self.model} do not fit each other.")
        if len(_FITS) >= 256:
            _FITS.pop(next(iter(_FITS)))
        _FITS[key] = None


_FITS: dict[str, None] = {}


def probe(module: nn.Module, input_size: int, batch: int = 1, within: contextlib.AbstractContextManager = contextlib.nullcontext()) -> torch.Tensor:
    """The output of `module` for pictures (batch, 3, S, S), on the meta device: shapes only, no arithmetic, weights untouched.

    Forward hooks run, and the pass itself inside `within`. Raises what torch raises when shapes do not fit.
    """
    tensors = {name: torch.empty_like(tensor, device="meta") for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    dtype = next((parameter.dtype for parameter in module.parameters()), torch.float32)
    pictures = torch.empty(batch, 3, input_size, input_size, dtype=dtype, device="meta")
    with torch.no_grad(), within:
        return torch.func.functional_call(module, tensors, pictures)


def allocate(module: nn.Module) -> None:
    """Zeros, in the memory order that kernels like, for every parameter that is still on the meta device."""
    for layer in module.modules():
        for kind, parameter in layer._parameters.items():
            if parameter is not None and parameter.is_meta:
                layer._parameters[kind] = nn.Parameter(_zeros(parameter.shape))


def replaceable(module: nn.Module, input_size: int) -> dict[str, tuple[int, ...]]:
    """Path → shape of the weight of every layer that factors can stand in for: linear layers, and convolutions of one group.

    Only what a forward pass calls: attention reads the weights of its layers itself, and a sequence of two has none.
    """
    called: set[nn.Module] = set()
    candidates = {path: layer for path, layer in module.named_modules() if type(layer) in (nn.Conv2d, nn.Linear) and getattr(layer, "groups", 1) == 1}
    hooks = [layer.register_forward_hook(lambda layer, _inputs, _output: called.add(layer)) for layer in candidates.values()]
    try:
        probe(module, input_size)
    finally:
        for hook in hooks:
            hook.remove()
    return {path: tuple(layer.weight.shape) for path, layer in candidates.items() if layer in called}


_FILLING = {torch.Tensor.normal_, torch.Tensor.uniform_, torch.Tensor.fill_, torch.Tensor.zero_}


class _ParametersOnMeta(TorchFunctionMode):
    """Layers allocate their parameters by `torch.empty`; buffers come from other functions and stay real.

    What would fill a parameter in place (`normal_`, or all of `torch.nn.init`) is left out: on the meta device that does nothing, in Python and slowly.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if function is torch.empty:
            kwargs = kwargs | {"device": "meta"}
        elif function in _FILLING or getattr(function, "__module__", None) == nn.init.__name__:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return function(*args, **kwargs)


def skeleton(model: str, classes: int, input_size: int) -> nn.Module:
    """Torchvision's module with (nearly) all parameters on the meta device, taking no memory, and every buffer as it should be."""
    # Whatever the caller's default device: RegNet reads its widths from tensors that it computes.
    with torch.random.fork_rng(devices=[]), torch.device("cpu"), _ParametersOnMeta():
        return zoo.construct(model, classes, input_size)


@functools.lru_cache(maxsize=32)
def _plain_shapes(model: str, classes: int, input_size: int) -> dict[str, tuple[int, ...]]:
    return {name: tuple(parameter.shape) for name, parameter in skeleton(model, classes, input_size).named_parameters()}


@functools.lru_cache(maxsize=32)
def _replaceable(model: str, classes: int, size: int) -> dict[str, tuple[int, ...]]:
    return replaceable(skeleton(model, classes, size).eval(), size)


def _own_shapes(model: str, classes: int, size: int, factors: dict[str, list]) -> dict[str, tuple[int, ...]]:
    """The shapes of all parameters when these layers are factors and nothing else has changed."""
    own = dict(_plain_shapes(model, classes, size))
    for path, form in factors.items():
        weights = factor_shapes(form, own.pop(f"{path}.weight"))
        own |= {f"{path}.{number}.weight": shape for number, shape in enumerate(weights)}
        bias = own.pop(f"{path}.bias", None)
        if bias is not None:
            own[f"{path}.{len(weights) - 1}.bias"] = bias
    return own


def _checked_factors(model: str, classes: int, size: int, factors: Any) -> dict[str, list]:
    if not isinstance(factors, dict):
        raise BadArtifact(f'"factors" cannot be {_short(factors)}; it takes an object from layer paths to forms such as ["svd", 8].')
    whole = _replaceable(model, classes, size) if factors else {}
    for path, form in factors.items():
        if path not in whole:
            raise BadArtifact(f"{model} has no layer named {_short(path)} that factors can stand in for.")
        if not is_form(form, whole[path]):
            raise BadArtifact(
                f'The factors of {path} cannot be {_short(form)}; it takes ["svd", rank] or, for a convolution, ["tucker", rank, rank], '
                f"with fewer numbers than its weight of {list(whole[path])}."
            )
    return {path: list(form) for path, form in factors.items()}


def _check_shape(model: str, name: object, shape: object, own: dict[str, tuple[int, ...]]) -> None:
    if name not in own:
        raise BadArtifact(f"{model} has no parameter named {_short(name)}.")
    bounds = own[name]
    fine = isinstance(shape, list) and len(shape) == len(bounds)
    if not fine or not all(_whole(length) and 1 <= length <= bound for length, bound in zip(shape, bounds, strict=True)):
        raise BadArtifact(f"The shape of {name} cannot be {_short(shape)}; it takes {len(bounds)} whole numbers from 1 to {list(bounds)}.")


def _reshape(path: str, layer: nn.Module, wanted: dict[str, list[int]]) -> None:
    """Give `layer` parameters of other shapes, still on the meta device, and the attributes and buffers that belong to them."""
    shapes = {kind: tuple(parameter.shape) for kind, parameter in layer.named_parameters(recurse=False)}
    before = shapes.get("weight", ())
    shapes |= {kind: tuple(shape) for kind, shape in wanted.items()}
    weight = shapes.get("weight", ())
    reshape = next((function for kind, function in _RESHAPE.items() if isinstance(layer, kind)), None)
    kernel_kept, bias_fits = weight[2:] == before[2:], shapes.get("bias", weight[:1]) == weight[:1]
    if reshape is None or not kernel_kept or not bias_fits:
        raise BadArtifact(f"{path} cannot have the shapes {_short(wanted)}.")
    reshape(path, layer, weight)
    for kind, shape in shapes.items():
        layer._parameters[kind] = nn.Parameter(torch.empty(shape, device="meta"))


def _reshape_convolution(path: str, layer: nn.Conv2d, weight: tuple[int, ...]) -> None:
    """weight (out, in / groups, height, width). A depthwise convolution stays one; any other keeps its number of groups."""
    if layer.groups > 1 and layer.groups == layer.in_channels:
        layer.groups = weight[0] // (layer.out_channels // layer.groups)
    if layer.groups < 1 or weight[0] % layer.groups:
        raise BadArtifact(f"{path} cannot have {weight[0]} channels in {layer.groups} groups.")
    layer.out_channels, layer.in_channels = weight[0], weight[1] * layer.groups


def _reshape_linear(_path: str, layer: nn.Linear, weight: tuple[int, ...]) -> None:
    layer.out_features, layer.in_features = weight


def _reshape_batch_norm(_path: str, layer: nn.BatchNorm2d, weight: tuple[int, ...]) -> None:
    layer.num_features = weight[0]
    layer.running_mean, layer.running_var = torch.zeros(weight), torch.ones(weight)


def _reshape_layer_norm(_path: str, layer: nn.LayerNorm, weight: tuple[int, ...]) -> None:
    layer.normalized_shape = weight


_RESHAPE = {nn.Conv2d: _reshape_convolution, nn.Linear: _reshape_linear, nn.BatchNorm2d: _reshape_batch_norm, nn.LayerNorm: _reshape_layer_norm}


def _zeros(shape: torch.Size) -> torch.Tensor:
    return torch.empty(shape, memory_format=torch.channels_last if len(shape) == 4 else torch.contiguous_format).zero_()


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
