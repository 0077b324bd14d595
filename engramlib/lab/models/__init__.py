"""Small models for the chapters, one file a family."""

from engramlib.lab.models.mlp import mlp
from engramlib.lab.models.resnet import ResNet, resnet, resnet18

__all__ = ["ResNet", "mlp", "resnet", "resnet18"]
