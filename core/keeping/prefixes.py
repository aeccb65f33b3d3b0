"""Keeps what a recipe's first steps have made, so that later steps can change without training again.

A kept prefix holds every state of a `Compressed`, not only its values: architecture as JSON, tensors as safetensors.
"""

from __future__ import annotations

import json
from dataclasses import asdict

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from core.arithmetic.grids import KINDS
from core.keeping import kept
from core.models.architecture import Architecture
from core.weights import ActivationGrid, Compressed, Weight, weights_of


def keep(key: str, subject: Compressed) -> None:
    tensors = {f"module/{name}": tensor for name, tensor in subject.module.state_dict().items()}
    grids, shares = {}, {}
    for name, weight in subject.weights.items():
        tensors[f"latent/{name}"] = weight.latent
        if weight.mask is not None:
            tensors[f"mask/{name}"] = weight.mask
        if weight.grid is not None:
            parts, described = weight.grid.parts()
            tensors |= {f"codes/{name}": weight.grid.codes} | {f"{part}/{name}": tensor for part, tensor in parts.items()}
            shared = {"shares": shares.setdefault(id(parts["entries"]), name)} if "entries" in parts else {}
            grids[name] = {"kind": weight.grid.kind, "parts": list(parts), "facts": described} | shared
    facts = {
        "architecture": subject.architecture.to_json(), "grids": grids, "notes": subject.notes,
        "activations": {name: asdict(grid) for name, grid in subject.activations.items()},
    }  # fmt: skip
    # cloned: safetensors refuses tensors that share memory, as a weight and its latent may
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    kept.put("prefixes", f"{key}.safetensors", save(copies, {"facts": json.dumps(facts)}))


def _as_fresh(tensor: torch.Tensor) -> torch.Tensor:
    """In the memory order of a fresh state: ties between equal weights, and the last bits of sums, depend on it."""
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def recall(key: str) -> Compressed | None:
    """The state that `keep` was given under this key, or None."""
    path = kept.get("prefixes", f"{key}.safetensors")
    if path is None:
        return None
    tensors: dict[str, dict[str, torch.Tensor]] = {}
    try:
        with safe_open(path, "pt") as stored:
            facts = json.loads(stored.metadata()["facts"])
            for full in stored.keys():
                kind, _, name = full.partition("/")
                tensors.setdefault(kind, {})[name] = _as_fresh(stored.get_tensor(full))
        if any("kind" not in told for told in facts["grids"].values()):
            raise KeyError("a grid of an older form")
    except (SafetensorError, KeyError):
        kept.drop(path)
        return None
    architecture = Architecture.from_json(facts["architecture"])
    module = architecture.build()
    module.load_state_dict(tensors["module"])
    weights = {}
    for name, latent in tensors["latent"].items():
        grid = None
        if name in facts["grids"]:
            told = facts["grids"][name]
            parts = {part: tensors[part][told.get("shares", name)] for part in told["parts"]}
            grid = KINDS[told["kind"]](tensors["codes"][name], **parts, **told["facts"])
        weights[name] = Weight(latent, tensors.get("mask", {}).get(name), grid)
    order = [name for name, _parameter in weights_of(module)]
    return Compressed(
        module, architecture, {name: weights[name] for name in [*order, *sorted(set(weights) - set(order))]},
        {name: ActivationGrid(**grid) for name, grid in facts["activations"].items()}, list(facts["notes"]),
    )  # fmt: skip
