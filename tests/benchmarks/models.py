"""The models: shapes that people use, random weights, nothing downloaded; each with its data and its layers."""
# ruff: noqa: E501, a table of models

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from engramlib.lab import models
from tests.benchmarks import data

Layers = list[str] | str | None
Batch = Mapping[str, Tensor] | tuple[Tensor, Tensor]

LINEAR = ["fc1", "fc2", "fc3"]
LLAMA = [f"self_attn.{p}_proj" for p in "qkvo"] + [f"mlp.{p}_proj" for p in ("gate", "up", "down")]
CONV, TOKENS = r"\..*(conv\d|downsample\.0)", r"\.(self_attention|mlp)\..*"
GPT2 = ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]


@dataclass(frozen=True)
class Case:
    """One model, its data, and which layers each step is measured on.

    ``layers`` are collected; ``extracted`` are those of which one engram is extracted, swept and forgotten; on ``few``
    1, 10 and 100 concepts are compared, because 100 engrams of every layer of a larger model would be tens of GB. The
    authors' package is given the same layers, as far as it reaches them (``peer``; None: not at all).
    """

    title: str
    build: Callable[[], nn.Module]
    input: str  # "vectors", "images" or "texts"
    size: int  # an image's side, or a text's length
    examples: int
    batch: int
    timed: int  # batches that a timed pass goes over; statistics are of all of them
    layers: Layers = None
    extracted: Layers = None
    few: Layers = None
    peer: Layers = None
    concepts: tuple[int, ...] = (1, 10, 100)
    most_threads: bool = False  # only with the larger number of threads
    note: str = ""


def cases(quick: bool = False) -> dict[str, Case]:
    """Every model, or small ones of the same families with few data."""
    full = {
        "mlp": Case("MLP 784-512-512-10", lambda: models.mlp([784, 512, 512, 10]), "vectors", 28, 4096, 1024, 4, few=LINEAR[1:], peer=LINEAR),
        "thin": Case("ResNet-20 (16, 32, 64 channels)", lambda: models.resnet((16, 32, 64), 3), "images", 32, 200, 100, 1, few=f"layer[12]{CONV}"),
        "resnet18": Case(
            "ResNet-18, images 32 × 32", lambda: models.resnet18(), "images", 32, 128, 128, 1,
            layers=rf"conv1|layer[123]{CONV}|fc", extracted=f"layer[12]{CONV}", few=f"layer1{CONV}",
            note="collected without its last stage, where one Σ takes 170 MB; extracted: its first two stages",
        ),
        "vit": Case(
            "ViT, width 384, 6 blocks", lambda: models.vit(image_size=32, dim=384, depth=6, heads=6, mlp_dim=1536),
            "images", 32, 32, 16, 1, extracted=f".*layer_[01]{TOKENS}", few=r".*layer_0\.(self_attention\..*|mlp\.0)",
            peer=["mlp.0", "mlp.3"], concepts=(1, 10), note="the authors' package reaches its MLPs only; extracted: 2 blocks",
        ),
        "llama": Case(
            "Llama, width 512, 6 blocks", lambda: llama(512, 6, 8, 2, 1408), "texts", 16, 256, 128, 1,
            layers=LLAMA, extracted=of_blocks("layers", [0, 1], LLAMA), few=of_blocks("layers", [0], LLAMA[:6]),
            peer=LLAMA, note="extracted: 2 blocks",
        ),
        "smollm2": Case(
            "SmolLM2-135M's shape, 30 blocks", lambda: llama(576, 30, 9, 3, 1536, tied=True), "texts", 8, 256, 64, 1,
            layers=LLAMA, extracted=of_blocks("layers", [0, 1], LLAMA), few=of_blocks("layers", [0], LLAMA[:6]),
            peer=LLAMA, concepts=(1, 10), most_threads=True, note="extracted: 2 blocks",
        ),
        "gpt2": Case(
            "GPT-2's shape, 12 blocks", lambda: gpt2(12, 768, 12), "texts", 8, 512, 64, 1,
            layers=GPT2, extracted=of_blocks("h", [0], GPT2), few=of_blocks("h", [0], GPT2[:3]), peer=GPT2,
            concepts=(1, 10), most_threads=True, note="extracted: 1 block",
        ),
    }  # fmt: skip
    if not quick:
        return full
    smaller: dict[str, dict[str, Any]] = {
        "mlp": {
            "title": "MLP 196-64-10", "build": lambda: models.mlp([196, 64, 10]), "peer": LINEAR[:2], "few": None, "size": 14,
            "examples": 1024, "batch": 256,
        },
        "thin": {"title": "ResNet-8 (8, 16 channels)", "build": lambda: models.resnet((8, 16), 1), "examples": 100},
        "resnet18": {
            "title": "ResNet-6 (32, 64 channels)", "build": lambda: models.resnet((32, 64), 1), "examples": 20,
            "batch": 20, "concepts": (1, 10),
            "layers": None, "extracted": None, "note": "",
        },
        "vit": {
            "title": "ViT, width 96, 2 blocks",
            "build": lambda: models.vit(image_size=32, dim=96, depth=2, heads=3, mlp_dim=384), "examples": 32,
            "extracted": None, "note": "the authors' package reaches its MLPs only",
        },
        "llama": {"title": "Llama, width 128, 2 blocks", "build": lambda: llama(128, 2, 4, 2, 352), "note": ""},
        "smollm2": {
            "title": "SmolLM2's form, 2 blocks", "build": lambda: llama(192, 2, 3, 1, 512, tied=True),
            "extracted": of_blocks("layers", [0], LLAMA), "note": "extracted: 1 block",
        },
        "gpt2": {"title": "GPT-2's form, width 192, 2 blocks", "build": lambda: gpt2(2, 192, 3)},
    }  # fmt: skip
    return {name: replace(case, **smaller[name]) for name, case in full.items()}


def of_blocks(stem: str, numbers: Iterable[int], parts: list[str]) -> list[str]:
    return [f"{stem}.{number}.{part}" for number in numbers for part in parts]


def llama(width: int, layers: int, heads: int, kv_heads: int, intermediate: int, tied: bool = False) -> nn.Module:
    model = models.llama(data.VOCABULARY, width, layers, heads, kv_heads, intermediate, context=1024, tied=tied)
    return without_cache(model)


def gpt2(layers: int, width: int, heads: int) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=data.VOCABULARY, n_layer=layers, n_embd=width, n_head=heads, bos_token_id=1, eos_token_id=2
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return without_cache(GPT2LMHeadModel(config).eval())


def without_cache(model: nn.Module) -> nn.Module:
    """Keys and values of a pass are of no use to anybody here, and every side would pay for them."""
    model.config.use_cache = False
    return model


class Scene:
    """A case made real: the model and its batches, on the device."""

    def __init__(self, case: Case, device: str = "cpu") -> None:
        self.case, self.device = case, device
        self.model = case.build().to(device).eval()
        self.concepts = max(case.concepts)
        if case.input == "texts":
            x, concept = data.tokens(case.examples, case.size, self.concepts)
        else:
            x, concept = data.images(case.examples, 1 if case.input == "vectors" else 3, case.size, self.concepts)
            x = x.flatten(1) if case.input == "vectors" else x
        self.x, self.concept = x.to(device), concept.to(device)
        self.all = self.batches(torch.arange(case.examples))
        self.timed = self.all[: case.timed]

    @property
    def language(self) -> bool:
        return self.case.input == "texts"

    def batches(self, chosen: Tensor) -> list[Batch]:
        parts = chosen.to(self.device).split(self.case.batch)
        if self.language:
            return [{"input_ids": self.x[part], "concept": self.concept[part]} for part in parts]
        return [(self.x[part], self.concept[part]) for part in parts]

    def of_concept(self, number: int, concepts: int, within: int) -> list[Batch]:
        """The batches of one of ``concepts`` concepts, among the first ``within`` examples."""
        return self.batches((self.concept[:within].cpu() % concepts == number).nonzero()[:, 0])

    def call(self, model: nn.Module, batch: Batch) -> Any:
        """The forward pass that everything is compared with."""
        return model(input_ids=batch["input_ids"]) if self.language else model(batch[0])

    def grouped(self, concepts: int) -> Callable[[Batch], Tensor]:
        """The labels of a batch, its examples divided among ``concepts`` concepts."""
        return lambda batch: (batch["concept"] if self.language else batch[1]) % concepts

    def columns(self) -> int:
        """Examples, or tokens, of a timed pass."""
        n = min(self.case.examples, self.case.timed * self.case.batch)
        return n * self.case.size if self.language else n
