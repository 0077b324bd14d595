"""Vision transformers, out of torchvision's encoder (Dosovitskiy et al. 2021)."""

from __future__ import annotations

import math

import torch
from torch import nn
from torchvision.models import VisionTransformer

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and std of torchvision's pretrained networks
# torchvision starts the positions at .02, far below the patches. A network that trains for a few seconds then learns
# where things are too late: on 8 x 8 digits, 20 epochs, .88 of the test images against .96.
POSITION_STD = 0.5


class ViT(VisionTransformer):
    """torchvision's `VisionTransformer` that takes pixels in [0, 1] and whose classifier is called `fc`.

    Layers: `conv_proj` (patches to tokens), `encoder.layers.encoder_layer_0` ... (each with `self_attention`, `mlp.0`
    and `mlp.3`), `encoder.ln`, `fc`. `mean` and `std` are buffers. torchvision hard-codes three input channels;
    any other number gets a patch projection of its own, initialised in the same way.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 1000, **sizes: int | float) -> None:
        super().__init__(num_classes=num_classes, **sizes)
        self.register_buffer("mean", torch.full((1, in_channels, 1, 1), 0.5))
        self.register_buffer("std", torch.full((1, in_channels, 1, 1), 0.25))
        if in_channels != 3:
            self.conv_proj = nn.Conv2d(in_channels, self.hidden_dim, self.patch_size, self.patch_size)
            nn.init.trunc_normal_(self.conv_proj.weight, std=math.sqrt(1 / (in_channels * self.patch_size**2)))
            nn.init.zeros_(self.conv_proj.bias)
        self.fc = self.heads.head
        del self.heads

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """The class token after the last LayerNorm, N x dim: what the classifier `fc` reads."""
        tokens = self._process_input((x - self.mean) / self.std)
        tokens = torch.cat([self.class_token.expand(len(x), -1, -1), tokens], dim=1)
        return self.encoder(tokens)[:, 0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.features(x))


def vit(
    *,
    image_size: int = 16,
    patch_size: int = 4,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    mlp_dim: int = 128,
    n_classes: int = 10,
    in_channels: int = 3,
    seed: int = 0,
) -> ViT:
    """A small vision transformer; the default has 0.14 M parameters and reads 16 x 16 images as 16 patches.

    Input N x in_channels x image_size x image_size, pixels in [0, 1]; output N x n_classes logits. `dim` = width of a
    token, `depth` = encoder blocks, `mlp_dim` = hidden width of their two-layer networks. No dropout. `seed` fixes the
    weights and leaves torch's own random state as it was.
    """
    sizes = {"image_size": image_size, "patch_size": patch_size, "dim": dim, "depth": depth, "heads": heads}
    sizes |= {"mlp_dim": mlp_dim, "n_classes": n_classes, "in_channels": in_channels}
    for name, value in sizes.items():
        if int(value) != value or value < 1:
            raise ValueError(f"vit: {name} must be a positive integer, got {value}.")
    if image_size % patch_size:
        raise ValueError(f"vit: patch_size must divide image_size; got {patch_size} and {image_size}.")
    if dim % heads:
        raise ValueError(f"vit: heads must divide dim; got {heads} and {dim}.")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ViT(
            image_size=image_size,
            patch_size=patch_size,
            num_layers=depth,
            num_heads=heads,
            hidden_dim=dim,
            mlp_dim=mlp_dim,
            num_classes=n_classes,
            in_channels=in_channels,
        )
        nn.init.normal_(model.encoder.pos_embedding, std=POSITION_STD)
    return model


def from_torchvision(model: VisionTransformer) -> ViT:
    """One of torchvision's vision transformers as a `ViT`, with ImageNet's mean and std. The weights are copied.

    The paper's Fig. 12 is ViT-B/16 on ImageNet (346 MB, downloaded by torchvision into `TORCH_HOME`):

        from torchvision.models import ViT_B_16_Weights, vit_b_16
        model = from_torchvision(vit_b_16(weights=ViT_B_16_Weights.IMAGENET1K_V1))

    It takes 224 x 224 images in [0, 1]: resized to 256, cropped, not normalised.
    """
    if not isinstance(model, VisionTransformer) or model.representation_size is not None:
        raise ValueError(
            "from_torchvision: model must be a torchvision VisionTransformer without a representation layer."
        )
    if not isinstance(model.conv_proj, nn.Conv2d):
        raise ValueError("from_torchvision: model must cut its patches with one convolution, not with a stem.")
    block = model.encoder.layers[0]
    with torch.random.fork_rng(devices=[]):
        ours = ViT(
            image_size=model.image_size,
            patch_size=model.patch_size,
            num_layers=len(model.encoder.layers),
            num_heads=block.num_heads,
            hidden_dim=model.hidden_dim,
            mlp_dim=model.mlp_dim,
            dropout=model.dropout,
            attention_dropout=model.attention_dropout,
            num_classes=model.heads.head.out_features,
            in_channels=model.conv_proj.in_channels,
            norm_layer=model.norm_layer,
        )
    weights = {name.replace("heads.head.", "fc."): value for name, value in model.state_dict().items()}
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in IMAGENET)
    ours.load_state_dict(weights | {"mean": mean, "std": std})
    return ours.train(model.training)
