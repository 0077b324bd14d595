"""Data sets, one file each: images as plain tensors, and questions with answers as plain text.

To add one: write a function that returns an `ImageData` (an `AttributeData`, a `QuestionData`), raise
`DatasetUnavailable` where it cannot be had, and export it here. Generated on the spot: `digits` (real, comes with
scikit-learn), `shapes`, `faces`, `authors`. From a folder or the network: `mnist`, `cifar10`, `cifar100`, `tofu`. From
a folder only: `celeba`, `imagenet`, `imagenette` (ten of its classes) and `imagenet_samples` (one image of each).
"""

from engramlib.lab.data.attribute_data import AttributeData, AttributeSplit
from engramlib.lab.data.authors import authors
from engramlib.lab.data.celeba import celeba
from engramlib.lab.data.cifar import cifar10, cifar100
from engramlib.lab.data.digits import digits
from engramlib.lab.data.faces import FaceData, faces
from engramlib.lab.data.image_data import DatasetUnavailable, ImageData, Split
from engramlib.lab.data.imagenet import LazyImageData, LazySplit, imagenet
from engramlib.lab.data.imagenette import imagenet_samples, imagenette
from engramlib.lab.data.mnist import mnist
from engramlib.lab.data.questions import PROMPT, Question, QuestionData
from engramlib.lab.data.shapes import shapes
from engramlib.lab.data.tofu import tofu

__all__ = [
    "AttributeData",
    "AttributeSplit",
    "DatasetUnavailable",
    "FaceData",
    "ImageData",
    "LazyImageData",
    "LazySplit",
    "PROMPT",
    "Question",
    "QuestionData",
    "Split",
    "authors",
    "celeba",
    "cifar10",
    "cifar100",
    "digits",
    "faces",
    "imagenet",
    "imagenet_samples",
    "imagenette",
    "mnist",
    "shapes",
    "tofu",
]
