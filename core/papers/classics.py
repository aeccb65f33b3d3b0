"""The classics of compression: what their papers published, and our recipe that stands beside each figure.

Declarations only; `core.papers.reproduced` finds and makes our figures, `python -m core papers` and the page Papers show both. Imports no torch.
Published figures are quoted with their place; ours are never written here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import core.methods  # noqa: F401  (registers the steps)
from core.datasets import DATASETS
from core.recipe import Recipe
from core.registry import Registry
from core.studies import gallery

MNIST_FIRST = ("mnist", "fashion_mnist_full")  # where MNIST is here it is taken, as the papers did
ERROR, ERRORS, ACCURACY = "error", "errors", "accuracy"  # how a paper counts: percent wrong, pictures wrong, percent right


@dataclass(frozen=True)
class Published:
    """One line of a paper's table: top-1 in percent, the file's kilobytes (1,000 bytes, as rounded there) where it says so."""

    top1: float
    kilobytes: float | None = None


@dataclass(frozen=True)
class Row:
    """A line of our table: the published figure, if there is one, and the recipe whose figure stands beside it."""

    name: str
    title: str
    published: Published | None
    model: str
    recipe: Recipe = field(default_factory=Recipe)

    def models(self) -> list[str]:
        """Every model whose checkpoint the recipe needs, its own first, then the teachers."""
        teachers = [getattr(step, "teacher", "self") for step in self.recipe.steps]
        return list(dict.fromkeys([self.model, *(name for name in teachers if name != "self")]))


@dataclass(frozen=True)
class Paper:
    """`reference` is the row that differences are against, `pictures` how many the published figures were measured on.

    `claim` and `differs` are sentences: what the paper says, and what is different here.
    """

    name: str
    title: str
    source: str
    link: str
    claim: str
    published_on: str
    pictures: int
    counts: str
    reference: str
    datasets: tuple[str, ...]
    differs: str
    rows: tuple[Row, ...]

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def models(self) -> list[str]:
        """Every model whose checkpoint the rows need, teachers behind the rows' own."""
        return list(dict.fromkeys([*(row.model for row in self.rows), *(name for row in self.rows for name in row.models())]))

    def dataset(self) -> str:
        """The first of its datasets that is here; the last where none is."""
        return next((name for name in self.datasets if DATASETS.get(name).missing() is None), self.datasets[-1])

    def command(self) -> str:
        """What measures our figures anew on this machine."""
        return f"python -m core papers --run --again --only {self.name}"


PAPERS: Registry[Paper] = Registry("paper")


def _add(paper: Paper) -> None:
    PAPERS.add(paper.name, paper)


def _recipe(*steps: dict) -> Recipe:
    return Recipe.from_json({"steps": list(steps)})


def _deep_compression(model: str, network: str, before: tuple[float, float], after: tuple[float, float], times: int) -> Paper:
    """`before` and `after` are percent wrong and kilobytes."""
    return Paper(
        name=f"deep_compression_{model}", title=f"Deep Compression, {network}", source="Han, Mao, Dally: Deep Compression, ICLR 2016, table 1",
        link="https://arxiv.org/abs/1510.00149",
        claim=f"Pruning, sharing weights and entropy coding make {network} {times} times smaller without losing accuracy.",
        published_on="MNIST", pictures=10_000, counts=ERROR, reference="reference", datasets=MNIST_FIRST,
        differs="The paper prunes and retrains in several rounds and codes by Huffman's method; ours prunes once and codes by an entropy coder. "
        "Our bytes are those of the whole packed file, biases, codebooks and header included.",
        rows=(
            Row("reference", "Reference", Published(100 - before[0], before[1]), model),
            Row("compressed", "Compressed", Published(100 - after[0], after[1]), model, gallery.preset("deep_compression")),
        ),
    )  # fmt: skip


_add(_deep_compression("lenet_300_100", "LeNet-300-100", (1.64, 1070), (1.58, 27), 40))
_add(_deep_compression("lenet_5", "LeNet-5", (0.80, 1720), (0.74, 44), 39))

_FRESH = {"step": "student", "model": "self", "width": 1.0}
_TAUGHT = {"epochs": 20, "images": 6000, "learning_rate": 0.05}

_add(Paper(
    name="distillation", title="Distillation", source="Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, 2015, section 3",
    link="https://arxiv.org/abs/1503.02531",
    claim="A small net that learns a large net's softened answers makes about half the errors that it makes when it learns from labels alone.",
    published_on="MNIST", pictures=10_000, counts=ERRORS, reference="alone", datasets=MNIST_FIRST,
    differs="The paper's teacher has two layers of 1,200 units and its small net two of 800; here resnet18 teaches LeNet-300-100, a network of another "
    "kind. Both small nets start from the same random weights and are trained on the same 6,000 pictures for as long, at the same rates: of all 60,000 this "
    "one learns as much alone (both 88.78 % on validation after six epochs).",
    rows=(
        Row("teacher", "Teacher", Published(100 - 0.67), "resnet18"),
        Row("alone", "Small net alone", Published(100 - 1.46), "lenet_300_100", _recipe(_FRESH, {"step": "finetune"} | _TAUGHT)),
        Row(
            "distilled", "Small net, distilled", Published(100 - 0.74), "lenet_300_100",
            _recipe(_FRESH, {"step": "distill", "teacher": "resnet18", "temperature": 4.0, "alpha": 0.9} | _TAUGHT),
        ),
    ),
))  # fmt: skip


def _slimmed(share: float, published: float | None, trained: bool) -> Row:
    prune = {"step": "channel_prune", "sparsity": share, "importance": "bn_scale", "round_to": 1}
    train = [{"step": "finetune", "epochs": 2, "images": 6000, "learning_rate": 0.02}, {"step": "calibrate_batchnorm"}] if trained else []
    return Row(
        f"{'tuned' if trained else 'cut'}_{100 * share:.0f}", f"{100 * share:.0f} %{', fine-tuned' if trained else ''}",
        None if published is None else Published(published), "resnet18", _recipe(prune, *train),
    )  # fmt: skip


_add(Paper(
    name="slimming", title="The slimming cliff",
    source="Liu et al.: Network Slimming, ICCV 2017; figures of the reimplementation foolwood/pytorch-slimming, README",
    link="https://arxiv.org/abs/1708.06519",
    claim="Removing the channels with the smallest batch-norm scales costs nothing up to a point and everything beyond it; fine-tuning brings it back.",
    published_on="CIFAR-10", pictures=10_000, counts=ACCURACY, reference="whole", datasets=MNIST_FIRST,
    differs="The published network is VGG, trained so that the scales of channels it can spare become zero; here it is resnet18, trained as "
    "usual, so half of them cost more. Published fine-tuning takes 40 epochs, ours two of 6,000 pictures.",
    rows=(
        Row("whole", "Whole", Published(93.77), "resnet18"),
        _slimmed(0.5, 93.40, False), _slimmed(0.6, 37.83, False), _slimmed(0.7, 10.00, False),
        _slimmed(0.5, None, True), _slimmed(0.6, None, True), _slimmed(0.7, 93.56, True),
    ),
))  # fmt: skip

_BINARY = {"epochs": 3, "images": 60000, "learning_rate": 0.02}

_add(Paper(
    name="xnor", title="XNOR against full precision",
    source="Rastegari et al.: XNOR-Net, ECCV 2016; figures of the implementation jiecaoyu/XNOR-Net-PyTorch, README",
    link="https://arxiv.org/abs/1603.05279",
    claim="With one bit for each weight and each activation of its inner layers, LeNet-5 loses a tenth of a point.",
    published_on="MNIST", pictures=10_000, counts=ACCURACY, reference="full", datasets=MNIST_FIRST,
    differs="The published network has batch norms and activations of ±1; this LeNet-5 has none, and its binary activations are 0 or a scale, since "
    "they come out of a ReLU. The first and the last layer keep full precision in both.",
    rows=(
        Row("full", "Full precision", Published(99.34), "lenet_5"),
        Row("weights", "Binary weights", None, "lenet_5", _recipe({"step": "binarize"}, {"step": "finetune"} | _BINARY)),
        Row(
            "xnor", "Binary weights and activations", Published(99.23), "lenet_5",
            _recipe({"step": "binarize", "activations": True}, {"step": "finetune"} | _BINARY),
        ),
    ),
))  # fmt: skip
