"""Image data sets as plain tensors, one file a data set.

To add one: write a function that returns an `ImageData`, raise `DatasetUnavailable` where it cannot be had,
and export it here.
"""

from engramlib.lab.datasets.cifar import cifar10, cifar100
from engramlib.lab.datasets.digits import digits
from engramlib.lab.datasets.image_data import DatasetUnavailable, ImageData, Split
from engramlib.lab.datasets.mnist import mnist

__all__ = ["DatasetUnavailable", "ImageData", "Split", "cifar10", "cifar100", "digits", "mnist"]
