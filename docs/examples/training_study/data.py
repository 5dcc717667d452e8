"""The digits of scikit-learn: 8 x 8 pixels, ten classes."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np

TRAIN, VALIDATION, TEST = 1000, 297, 500
CLASSES = 10
CHANCE = 1 / CLASSES
"""The accuracy of guessing, which a run that diverged counts with."""


class Digits(NamedTuple):
    """Some images with their classes."""

    images: np.ndarray
    """From 0 to 1, shape (samples, 64), float32."""

    labels: np.ndarray
    """From 0 to 9, shape (samples,)."""


class Split(NamedTuple):
    """What is trained with, what settings are chosen by, and what results are measured on."""

    train: Digits
    validation: Digits
    test: Digits


@cache
def split() -> Split:
    """Return the digits in three parts, always the same, each with equal shares of the classes."""
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        msg = 'the digits come with scikit-learn: pip install "ngdla[study]"'
        raise ImportError(msg) from error
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    options = {"random_state": 0, "stratify": labels}
    rest, test, rest_labels, test_labels = train_test_split(
        images, labels, test_size=TEST, **options
    )
    options["stratify"] = rest_labels
    train, validation, train_labels, validation_labels = train_test_split(
        rest, rest_labels, test_size=VALIDATION, **options
    )
    return Split(
        Digits(train, train_labels),
        Digits(validation, validation_labels),
        Digits(test, test_labels),
    )
