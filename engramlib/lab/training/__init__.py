"""Training, fixed by a seed: of a classifier (`classifier`, whose names are here too), of a language model
(`language`), of an autoencoder (`autoencoder`), all in one `loop`. `precision` says in which arithmetic they compute.
"""

from engramlib.lab.training.classifier import (
    AUGMENTATIONS,
    PHOTOS,
    History,
    Recipe,
    accuracy,
    augmented,
    by_class,
    class_accuracy,
    flip_and_shift,
    predict,
    train_classifier,
)
from engramlib.lab.training.loop import checkpoints, hash_of, identity

__all__ = [
    "AUGMENTATIONS",
    "PHOTOS",
    "History",
    "Recipe",
    "accuracy",
    "augmented",
    "by_class",
    "checkpoints",
    "class_accuracy",
    "flip_and_shift",
    "hash_of",
    "identity",
    "predict",
    "train_classifier",
]
