"""Training, fixed by a seed: of a classifier (`classifier`, whose names are here too), of a language model
(`language`), of an autoencoder (`autoencoder`). `precision` says in which arithmetic whatever trains computes.
"""

from engramlib.lab.training.classifier import (
    AUGMENTATIONS,
    PHOTOS,
    History,
    Recipe,
    accuracy,
    augmented,
    checkpoints,
    class_accuracy,
    flip_and_shift,
    hash_of,
    identity,
    predict,
    train_classifier,
)

__all__ = [
    "AUGMENTATIONS",
    "PHOTOS",
    "History",
    "Recipe",
    "accuracy",
    "augmented",
    "checkpoints",
    "class_accuracy",
    "flip_and_shift",
    "hash_of",
    "identity",
    "predict",
    "train_classifier",
]
