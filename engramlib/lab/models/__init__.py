"""Small models for the chapters, one file a family."""

from engramlib.lab.models.autoencoder import WAE, ConvAutoencoder, conv_autoencoder, wae
from engramlib.lab.models.mlp import mlp
from engramlib.lab.models.resnet import ResNet, resnet, resnet18
from engramlib.lab.models.vit import ViT, from_torchvision, vit

__all__ = [
    "WAE",
    "ConvAutoencoder",
    "ResNet",
    "ViT",
    "conv_autoencoder",
    "from_torchvision",
    "mlp",
    "resnet",
    "resnet18",
    "vit",
    "wae",
]
