"""The attention of Swin transformers written out in torch's own functions: torchvision's are calls that a graph does not look into.

Shapes become numbers, -1 for the batch; what follows from shapes alone, the mask between windows that a shift brings together, is a tensor of the graph.
Liu et al. 2021, arXiv:2103.14030, and 2022, arXiv:2111.09883.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, fx
from torchvision.models import swin_transformer

APART = -100.0  # added to what attention gives two places that the shift alone brought into one window


def written_out(module: fx.GraphModule, input_size: int) -> dict[str, str]:
    """Replaces these calls in the graph of `module`, which is in eval mode; the names of the nodes that were, and of those in their place."""
    nodes = [node for node in module.graph.nodes if node.op == "call_function" and node.target in _WRITTEN]
    if not nodes:
        return {}
    shapes, names, tracer = shapes_of(module, input_size), {}, fx.proxy.GraphAppendingTracer(module.graph)

    def proxies(values):
        return fx.node.map_arg(values, lambda node: fx.Proxy(node, tracer))

    for node in nodes:

        def constant(value: Tensor, name: str = f"{node.name}_constant") -> fx.Proxy:
            while hasattr(module, name):
                name += "_"
            module.register_buffer(name, value)
            return fx.Proxy(module.graph.get_attr(name), tracer)

        with module.graph.inserting_before(node):
            made = _WRITTEN[node.target](shapes[node.args[0].name], constant, *proxies(node.args), **proxies(node.kwargs)).node
        names[node.name] = made.name
        node.replace_all_uses_with(made)
        module.graph.erase_node(node)
    module.recompile()
    return names


def shapes_of(module: fx.GraphModule, input_size: int) -> dict[str, list[int]]:
    """Node → the shape of what it gives for one picture."""
    found = {}

    class Shapes(fx.Interpreter):
        def run_node(self, node):
            value = super().run_node(node)
            if isinstance(value, Tensor):
                found[node.name] = list(value.shape)
            return value

    with torch.no_grad():
        Shapes(module).run(torch.zeros(1, 3, input_size, input_size))
    return found


def _attention(
    shape: list[int], constant: Callable, x, qkv_weight, proj_weight, bias, window_size, num_heads, shift_size,
    attention_dropout=0.0, dropout=0.0, qkv_bias=None, proj_bias=None, logit_scale=None, training=False,
):  # fmt: skip
    """`shifted_window_attention` of x (B, H, W, C), without its dropout, which does nothing in eval mode."""
    (_one, height, width, channels), (rows, columns) = shape, window_size
    down, right = -height % rows, -width % columns
    x = F.pad(x, (0, 0, 0, right, 0, down)) if down or right else x
    high, wide, area = (height + down) // rows, (width + right) // columns, rows * columns  # windows, windows, places of one
    shift = [0 if windows == 1 else by for windows, by in zip((high, wide), shift_size)]
    x = torch.roll(x, (-shift[0], -shift[1]), (1, 2)) if any(shift) else x
    x = x.reshape(-1, high, rows, wide, columns, channels).permute(0, 1, 3, 2, 4, 5).reshape(-1, area, channels)  # (B · windows, area, C)
    if logit_scale is not None and qkv_bias is not None:  # keys have no bias in the second version
        qkv_bias = qkv_bias * constant(torch.tensor([1.0, 0.0, 1.0]).repeat_interleave(channels))
    qkv = F.linear(x, qkv_weight, qkv_bias).reshape(-1, area, 3, num_heads, channels // num_heads).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]  # (B · windows, heads, area, C / heads)
    if logit_scale is None:
        attention = torch.matmul(q * (channels // num_heads) ** -0.5, k.transpose(-2, -1))
    else:
        cosine = torch.matmul(F.normalize(q, dim=-1), F.normalize(k, dim=-1).transpose(-2, -1))
        attention = cosine * torch.exp(torch.clamp(logit_scale, max=_LARGEST))
    attention = attention + bias
    if any(shift):
        apart = constant(_mask(high, wide, rows, columns, shift)[None, :, None])  # (1, windows, 1, area, area)
        attention = (attention.reshape(-1, high * wide, num_heads, area, area) + apart).reshape(-1, num_heads, area, area)
    x = torch.matmul(F.softmax(attention, dim=-1), v).transpose(1, 2).reshape(-1, area, channels)
    x = F.linear(x, proj_weight, proj_bias).reshape(-1, high, wide, rows, columns, channels).permute(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, high * rows, wide * columns, channels)
    x = torch.roll(x, tuple(shift), (1, 2)) if any(shift) else x
    return x[:, :height, :width] if down or right else x


def _mask(high: int, wide: int, rows: int, columns: int, shift: list[int]) -> Tensor:
    """(windows, area, area): 0 between places that were neighbours before the shift, else `APART`."""
    stripes = []
    for windows, side, by in ((high, rows, shift[0]), (wide, columns, shift[1])):
        place, whole = torch.arange(windows * side), windows * side
        stripes.append((place >= whole - side).int() + (place >= whole - by).int())
    regions = 3 * stripes[0][:, None] + stripes[1]  # (high · rows, wide · columns)
    regions = regions.reshape(high, rows, wide, columns).permute(0, 2, 1, 3).reshape(high * wide, rows * columns)
    return torch.where(regions[:, :, None] == regions[:, None], 0.0, APART)


def _merged(shape: list[int], _constant: Callable, x):
    """`_patch_merging_pad`: x (B, H, W, C) → (B, H/2, W/2, 4 · C)."""
    _one, height, width, _channels = shape
    x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2)) if height % 2 or width % 2 else x
    return torch.cat([x[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], -1)


def _bias(_shape: list[int], _constant: Callable, table, index, window_size):
    """`_get_relative_position_bias`, which is torch's functions alone."""
    return swin_transformer._get_relative_position_bias(table, index, window_size)


_LARGEST = math.log(100.0)
_WRITTEN = {
    swin_transformer.shifted_window_attention: _attention,
    swin_transformer._patch_merging_pad: _merged,
    swin_transformer._get_relative_position_bias: _bias,
}
