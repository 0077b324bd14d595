"""What an engram of a large language model takes, from the numbers in its config: bytes, operations, hours.

bill(LLAMAS["Llama-3.1-70B"], tokens=224_015, kept="rank", share=0.1).bytes

Counted, not measured. `tests/lab/metrics/test_arithmetic.py` holds it against small models whose operations torch
counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engramlib.lowrank import rows_for


@dataclass(frozen=True)
class Shape:
    """A decoder of Llama's kind, as its config has it. `source`: where the numbers stand."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocab: int
    tied: bool = False
    source: str = ""

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    @property
    def matrices(self) -> dict[str, tuple[int, int]]:
        """Matrix of a block -> (out, in)."""
        d, m, kv = self.hidden, self.intermediate, self.kv_heads * self.head_dim
        return {"q": (d, d), "k": (kv, d), "v": (kv, d), "o": (d, d), "gate": (m, d), "up": (m, d), "down": (d, m)}

    @property
    def parameters(self) -> int:
        """All of them: blocks, norms, embedding and output layer."""
        block = sum(out * d for out, d in self.matrices.values()) + 2 * self.hidden
        return self.layers * block + self.hidden + self.vocab * self.hidden * (1 if self.tied else 2)


LLAMAS = {
    "Llama-3.2-1B": Shape(2048, 8192, 16, 32, 8, 128256, True, "config.json of meta-llama/Llama-3.2-1B"),
    "Llama-3.1-8B": Shape(4096, 14336, 32, 32, 8, 128256, False, "arXiv:2407.21783, Table 3; config.json"),
    "Llama-3.1-70B": Shape(8192, 28672, 80, 64, 8, 128256, False, "arXiv:2407.21783, Table 3; config.json"),
}

# What reads the same columns shares one Σ.
INPUTS = {"q k v": ("q", "k", "v"), "o": ("o",), "gate up": ("gate", "up"), "down": ("down",)}
LAYERS = {"all": tuple("q k v o gate up down".split()), "Q/K/gate": ("q", "k", "gate")}
KEPT = {"square": "d × d, float64", "half": "half of it, float64", "half32": "half of it, float32", "rank": "rows"}


@dataclass(frozen=True)
class Machine:
    """Peak operations a second, times `used`, what a program gets of it; bytes a second between machines."""

    name: str
    half: float  # bf16, the forward pass
    single: float  # float32, products
    double: float  # float64, factorisations
    memory: float
    link: float
    used: float = 0.4
    source: str = ""


H100 = Machine("H100 SXM", 989e12, 67e12, 67e12, 80e9, 50e9, source="NVIDIA's data sheet; link: one 400 Gb/s port")


@dataclass(frozen=True)
class Bill:
    """`bytes` of all Σ that are kept, `weights` of the model in bf16, `flops` by kind of work."""

    bytes: float
    weights: float
    flops: dict[str, float] = field(default_factory=dict)

    @property
    def total(self) -> float:
        return sum(self.flops.values())

    def hours(self, machine: Machine = H100, processes: int = 1) -> float:
        """On so many machines, each kind of work in its own precision. All of it is divided, sending is not counted."""
        rates = {
            "forward": machine.half,
            "moments": machine.single,
            "factorise": machine.double,
            "apply": machine.double,
        }
        return sum(n / (rates[kind] * machine.used) for kind, n in self.flops.items()) / processes / 3600


def blocks_of(width: int, block: int) -> int:
    """Entries of Σ that are multiplied and kept where it is kept in halves: whole blocks on and above the diagonal."""
    if width <= block:
        return width * width
    return sum((min(s + block, width) - s) * (width - s) for s in range(0, width, block))


def bill(
    shape: Shape,
    tokens: int,
    *,
    kept: str = "half",
    share: float = 0.1,
    layers: str = "all",
    sums: int = 2,
    length: int = 64,
    block: int = 1024,
) -> Bill:
    """What an engram takes: one pass over `tokens` columns, `sums` statistics (target and reference), one extraction.

    `kept`: a key of `KEPT`; "rank" keeps `share` of the bytes of "half" (`engramlib.lowrank`). `layers`: a key of
    `LAYERS`. `length` of the sequences, for attention. `block`: of the halves, 128 on a CPU. Raises `ValueError` for
    another word.

    Operations, with n tokens, d the height of a column, m = all rows kept for two sums: forward 2n per weight of the
    blocks and 4n · length · width for attention; moments 2nd² (half of it where half is kept), of rows n(12ℓd + 72ℓ²);
    factorisation 9d³ per Σ, of rows 2m²d + 9m³; products 2d³ + 2 · out · d², of rows 8m · out · d.
    """
    for name, value, known in (("kept", kept, KEPT), ("layers", layers, LAYERS)):
        if value not in known:
            raise ValueError(f"bill: {name} must be one of {', '.join(known)}, got {value!r}.")
    chosen, sizes = LAYERS[layers], shape.matrices
    weights = sum(out * d for out, d in sizes.values())
    flops = {
        "forward": 2.0 * tokens * shape.layers * (weights + 2 * length * shape.hidden),
        **dict.fromkeys(("moments", "factorise", "apply"), 0.0),
    }
    total = 0.0
    for readers in INPUTS.values():
        outs = [sizes[name][0] for name in readers if name in chosen]
        if not outs:
            continue
        d = sizes[readers[0]][1]
        rows = rows_for(share, d) if kept == "rank" else None
        if rows is not None:
            m = 2 * rows
            total += sums * (4.0 * rows * d + 8 * d)
            flops["moments"] += tokens * (12.0 * rows * d + 72 * rows**2)
            flops["factorise"] += 2.0 * m * m * d + 9.0 * m**3
            flops["apply"] += sum(8.0 * m * out * d for out in outs)
        else:
            entries = d * d if kept == "square" else blocks_of(d, block)
            total += sums * entries * (4.0 if kept == "half32" else 8.0)
            flops["moments"] += 2.0 * tokens * entries
            flops["factorise"] += 9.0 * d**3
            flops["apply"] += 2.0 * d**3 + sum(2.0 * out * d * d for out in outs)
    for kind in ("moments", "factorise", "apply"):
        flops[kind] *= shape.layers
    return Bill(total * shape.layers, 2.0 * shape.parameters, flops)


def in_parallel(
    seconds: float, sent: float, processes: int, *, link: float = H100.link, latency: float = 2e-4, messages: int = 1
) -> float:
    """Seconds of `processes`: the work divided, and a ring that adds `sent` bytes in so many messages. A model.

    Each of the 2(p − 1) steps of a ring sends a p-th of the bytes, so it takes 2(p − 1)/p · sent / link, and a latency
    for each step of each message.
    """
    p = processes
    return seconds / p + 2 * (p - 1) / p * sent / link + 2 * (p - 1) * latency * messages
