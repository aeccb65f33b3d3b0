"""scikit-learn's 1,797 handwritten digits, 8×8 grey: embedded, instant, for classrooms and tests."""

from __future__ import annotations

from core.datasets.base import DATASETS, Arrays, Source, stratified_order, take


def read() -> dict[str, Arrays]:
    """Train 900, calibration 97, validation 400, test 400, by a fixed stratified order."""
    import numpy as np
    from sklearn.datasets import load_digits

    raw = load_digits()
    images = np.clip(raw.images * (255 / 16), 0, 255).round().astype(np.uint8)[:, None]  # (1797, 1, 8, 8)
    everything = (images, raw.target.astype(np.int64))
    order = stratified_order(everything[1])
    ends = {"validation": 400, "test": 800, "calibration": 897, "train": len(order)}
    splits, start = {}, 0
    for name, end in ends.items():
        splits[name] = take(everything, order[start:end])
        start = end
    return splits


DATASETS.add(
    "digits",
    Source(
        name="digits", title="Digits (8×8)", family="digits", classes=tuple("0123456789"), channels=1, size=8, input_size=32,
        mean=(0.3053,), std=(0.3761,), licence="CC BY 4.0, UCI Optical Recognition of Handwritten Digits, by scikit-learn",
        flip=False, read=read,
    ),
)  # fmt: skip
