"""The datasets: one file a source. Importing this package registers them all and imports no torch."""

from core.datasets import digits, fashion_mnist, torchvision_sets  # noqa: F401  (each registers its sources)
from core.datasets.base import DATASETS, SPLITS, Dataset, Source, Split, fingerprint, labels, load

__all__ = ["DATASETS", "SPLITS", "Dataset", "Source", "Split", "fingerprint", "labels", "load"]
