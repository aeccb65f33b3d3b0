"""The datasets: one file a source. Importing this package registers them all and imports no torch."""

from core.datasets import brought, digits, fashion_mnist, torchvision_pictures, torchvision_sets  # noqa: F401  (each registers its sources)
from core.datasets.base import DATASETS, SPLITS, Dataset, Source, Split, fingerprint, labels, load

__all__ = ["DATASETS", "SPLITS", "Dataset", "Source", "Split", "fingerprint", "labels", "load"]
