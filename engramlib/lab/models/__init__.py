"""Small models for the chapters, one file a family."""

import importlib
from typing import TYPE_CHECKING

from engramlib.lab.models.autoencoder import WAE, ConvAutoencoder, conv_autoencoder, wae
from engramlib.lab.models.llama import llama
from engramlib.lab.models.mlp import mlp
from engramlib.lab.models.resnet import ResNet, resnet, resnet18
from engramlib.lab.models.tokenizers import bpe_tokenizer, load_tokenizer, save_tokenizer, word_tokenizer

if TYPE_CHECKING:
    from engramlib.lab.models.vision_transformer import ViT, from_torchvision, vit
else:
    # torchvision's models take longer to import than the rest of the bench: only for whoever asks for one.
    def __getattr__(name: str) -> object:
        if name not in ("ViT", "from_torchvision", "vit"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(f"{__name__}.vision_transformer"), name)


__all__ = [
    "WAE",
    "ConvAutoencoder",
    "ResNet",
    "ViT",
    "bpe_tokenizer",
    "conv_autoencoder",
    "from_torchvision",
    "llama",
    "load_tokenizer",
    "mlp",
    "resnet",
    "resnet18",
    "save_tokenizer",
    "vit",
    "wae",
    "word_tokenizer",
]
