"""The book's language models: small Llamas that learned 200 authors, and others that were never told about 20 of them.

    python -m engramlib.lab.studies trained --record                # data/checkpoints/authors-*, three seeds
    python -m engramlib.lab.studies trained --record --data tofu    # real TOFU, in the background: hours on one core
    python -m engramlib.lab.studies trained --record --data tofu-smollm2 --seeds 1    # a published model learns TOFU

    model, tokenizer = load("full", seed=0)

Kinds: "pretrained" (general text; no author of the questions), "full" (then fine-tuned on all authors) and "retain" (on
all but `forget10`: the gold standard of forgetting). Real TOFU has no general text, so models that learn it from
nothing have no "pretrained"; for those that begin as a published network, "pretrained" is that network.

Training writes a checkpoint after every epoch and resumes. Every recorded number is of the weights as they are stored.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from engramlib import _files, language
from engramlib.lab import models
from engramlib.lab.data import QuestionData, authors, tofu
from engramlib.lab.models import zoo
from engramlib.lab.records import runs
from engramlib.lab.records.runs import Row
from engramlib.lab.studies import recording
from engramlib.lab.training import checkpoints
from engramlib.lab.training import language as language_training
from engramlib.lab.training.loop import History

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

KINDS = ("pretrained", "full", "retain")
SPLITS = ("full", "forget10", "rehearsal10", "retain_eval", "holdout10", "real_authors", "world_facts")
STORED = torch.float16


@dataclass(frozen=True)
class Fit:
    """How one training goes; the arguments of `language_training.train`."""

    epochs: int
    lr: float
    batch_size: int
    warmup: float = 0.05
    mixed: bool = True


@dataclass(frozen=True)
class Settings:
    """Everything that decides the models, except the seed. `sizes`: arguments of `models.llama`.

    `pretrain`: on the corpus, None where there is none. `finetune`: on the answers of the authors' questions and of
    the splits `along`, which both "full" and "retain" learn: a small model forgets what is not rehearsed.
    `vocabulary`: number of byte pairs; None = one token a word. `published`: fine-tuning begins with a network of the
    zoo instead, whose (tied) embedding stays as it is; then `sizes` are empty. `authors`: None = all that there are.
    """

    name: str
    sizes: dict[str, int | bool]
    finetune: Fit
    pretrain: Fit | None = None
    along: tuple[str, ...] = ("real_authors", "world_facts")
    vocabulary: int | None = None
    published: str | None = None
    authors: int | None = None

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS if self.pretrain is not None or self.published is not None else KINDS[1:]

    @property
    def trained_kinds(self) -> tuple[str, ...]:
        """The kinds that are trained here."""
        return KINDS if self.pretrain is not None else KINDS[1:]


# 1.2 M parameters, .18 M of them in the embedding; two minutes a model on one core. A narrower MLP (344, 512)
# memorises as well, but its memories share more: forgetting `rehearsal10` then costs the other authors more.
AUTHORS = Settings(
    "authors",
    {"hidden": 128, "layers": 3, "heads": 4, "kv_heads": 2, "intermediate": 768, "context": 128, "tied": True},
    pretrain=Fit(epochs=4, lr=4e-3, batch_size=32),
    finetune=Fit(epochs=30, lr=2e-3, batch_size=32),
)
# 4,000 answers of up to 150 tokens: 7.9 M parameters, from nothing, and byte pairs learned from TOFU's own text. Such a
# model knows nothing of the world but what it is taught along; about 70 seconds an epoch on one free core.
TOFU = Settings(
    "tofu",
    {"hidden": 256, "layers": 5, "heads": 4, "kv_heads": 2, "intermediate": 1536, "context": 512, "tied": True},
    finetune=Fit(epochs=20, lr=1.5e-3, batch_size=16),
    vocabulary=4096,
)
# A published model of 135 M parameters, which has read the world, learns a quarter of TOFU's authors: a quarter of an
# hour a model where the processor multiplies bfloat16 itself (AMX), longer on others; 17 GB. Batches as TOFU's.
SMOLLM2 = Settings(
    "tofu-smollm2",
    {},
    finetune=Fit(epochs=5, lr=3e-4, batch_size=32),
    along=(),
    published="smollm2",
    authors=50,
)
SETTINGS = {setting.name: setting for setting in (AUTHORS, TOFU, SMOLLM2)}


def questions(settings: Settings) -> QuestionData:
    """The data of these settings. Raises `DatasetUnavailable` where TOFU cannot be had."""
    return authors() if settings.name == AUTHORS.name else tofu(authors=settings.authors)


def published(settings: Settings) -> zoo.LanguageModel:
    """The network of the zoo that fine-tuning begins with. Raises `zoo.WeightsUnavailable`."""
    return getattr(zoo, settings.published)()


# --------------------------------------------------------------------------------------------------------- reading


def load(
    kind: str = "full", seed: int = 0, *, data: str = "authors"
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """A trained model, float32 and in eval mode, and its tokenizer.

    `data`: "authors", whose models travel with the package, or "tofu" and "tofu-smollm2", whose models you train first.
    Raises `ValueError` for a kind that there is not, `FileNotFoundError` for a seed that was not trained.
    """
    if data not in SETTINGS:
        raise ValueError(f"load: data must be one of {', '.join(SETTINGS)}, got {data!r}.")
    if kind not in SETTINGS[data].kinds:
        raise ValueError(f"load: kind must be one of {', '.join(SETTINGS[data].kinds)} for {data}, got {kind!r}.")
    if kind not in SETTINGS[data].trained_kinds:
        model, tokenizer, _ = published(SETTINGS[data])
        return model, tokenizer
    path = _path(data, kind, seed)
    if not path.is_file():
        there = ", ".join(str(n) for n in range(100) if _path(data, kind, n).is_file()) or "none"
        raise FileNotFoundError(
            f"load: there is no {kind} model of seed {seed} in {path.parent} (seeds there: {there}). "
            f"python -m engramlib.lab.studies trained --record --data {data} makes it."
        )
    return read_model(path), _tokenizer(data)


def read_model(path: str | Path) -> LlamaForCausalLM:
    """What `write_model` wrote: sizes and weights, now in float32. A published network's shape comes from the zoo."""
    tensors, header = _files.load(path, "llama")
    sizes = dict(header["sizes"])
    model = getattr(zoo, sizes["published"])().model if "published" in sizes else models.llama(**sizes)
    _, unexpected = model.load_state_dict({name: t.float() for name, t in tensors.items()}, strict=False)
    missing = {name for name, _ in model.named_parameters()} - set(tensors)  # a tied lm_head has no name of its own
    if missing or unexpected:
        raise ValueError(f"{path} does not fit its own sizes: missing {sorted(missing)}, unexpected {unexpected}.")
    return model


def write_model(model: LlamaForCausalLM, sizes: dict[str, int | bool], path: str | Path) -> None:
    """`sizes` (the arguments of `models.llama`) and weights, rounded to float16; a tied matrix is written once."""
    weights = {name: p.detach().to(STORED) for name, p in model.named_parameters()}
    if broken := [name for name, w in weights.items() if not w.isfinite().all()]:
        raise ValueError(f"write_model: these weights do not fit into {STORED}: {', '.join(broken)}.")
    _files.save(path, "llama", weights, {"sizes": sizes})


def weights_hash(path: str | Path) -> str:
    """SHA-256 of the stored weights and their names. The file's own would change: its header has no fixed order."""
    tensors, _ = _files.load(path, "llama")
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(f"{name} {tuple(tensors[name].shape)} ".encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()


def _folder(name: str) -> Path:
    return runs.data_dir() / "checkpoints" if name == AUTHORS.name else checkpoints()


def _path(name: str, kind: str, seed: int) -> Path:
    return _folder(name) / f"{name}-{kind}-seed{seed}.safetensors"


def _tokenizer(name: str) -> PreTrainedTokenizerFast:
    if SETTINGS[name].published is not None:
        return published(SETTINGS[name]).tokenizer
    tokenizer = models.load_tokenizer(_folder(name) / f"{name}-tokenizer.json")
    tokenizer.model_max_length = SETTINGS[name].sizes["context"]
    return tokenizer


# -------------------------------------------------------------------------------------------------------- training


def make_tokenizer(settings: Settings, data: QuestionData) -> PreTrainedTokenizerFast:
    """Words of the corpus, which holds all of the questions'; or byte pairs of the questions and answers themselves; or
    what the published network reads."""
    if settings.published is not None:
        return published(settings).tokenizer
    if settings.vocabulary is None:
        return models.word_tokenizer(data.corpus)
    texts = [text for split in ("full", *settings.along) for pair in data.pairs(split) for text in pair]
    return models.bpe_tokenizer(texts, settings.vocabulary)


def lessons(settings: Settings, data: QuestionData, kind: str) -> list[language_training.Item]:
    """What a model of this kind is trained on, after what it starts from."""
    if kind == "pretrained":
        return list(data.corpus)
    splits = ({"full": "full", "retain": "retain90"}[kind], *settings.along)
    return [pair for split in splits for pair in data.pairs(split)]


def fit(
    settings: Settings,
    data: QuestionData,
    tokenizer: PreTrainedTokenizerFast,
    kind: str,
    seed: int,
    *,
    start: LlamaForCausalLM | None = None,
    checkpoint: Path | None = None,
    log: bool = False,
) -> tuple[LlamaForCausalLM, History]:
    """A model of this kind, trained from `start` (in place), or from fresh weights."""
    if settings.published is not None:
        model = start if start is not None else published(settings).model
        model.get_input_embeddings().weight.requires_grad_(False)  # a fifth of the work for tokens hardly used
    else:
        model = start if start is not None else models.llama(len(tokenizer), **settings.sizes, seed=seed)
    how = settings.pretrain if kind == "pretrained" else settings.finetune

    def say(history: History) -> None:
        last = f"loss {history.loss[-1]:.4f}, {history.seconds:.0f} s"
        print(f"{settings.name} {kind} seed {seed} epoch {len(history.loss)}: {last}", file=sys.stderr, flush=True)

    history = language_training.train(
        model,
        tokenizer,
        lessons(settings, data, kind),
        **asdict(how),
        seed=seed,
        checkpoint=checkpoint,
        after_epoch=say if log else None,
    )
    return model, history


def measure(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    data: QuestionData,
    splits: Sequence[str] = SPLITS,
    *,
    most: int | None = None,
    choice: bool = True,
) -> list[Row]:
    """What the model knows of each split, one row a split; `most`: only its first questions.

    `exact`: share of answers that teacher-forced greedy decoding gets right to the last token; `em`: share of tokens;
    `probability`: mean over answers of exp(mean log-probability of a token); `choice`: share of questions whose right
    answer has a higher such probability than each of its wrong ones (the paraphrase, where there is one, since the
    wrong answers are made from it); six times the work, so `choice` can be turned off.
    """
    rows = []
    for split in splits:
        if split not in data:
            continue
        asked = data[split][:most]
        found = language.answer_logprobs(model, tokenizer, [q.pair for q in asked], batch_size=32)
        row = {
            "split": split,
            "n": len(asked),
            "exact": _mean(bool(answer.greedy.all()) for answer in found),
            "em": _mean(float(answer.greedy.double().mean()) for answer in found),
            "probability": _mean(float(answer.logprobs.double().mean().exp()) for answer in found),
            "choice": None,
        }
        if choice and all(q.perturbed_answers for q in asked):
            row["choice"] = _choice(model, tokenizer, asked)
        rows.append(row)
    return rows


def _choice(model, tokenizer, asked) -> float:
    answers = [((q.paraphrased_answer or q.answer), *q.perturbed_answers) for q in asked]
    items = [(q.pair[0], " " + text) for q, texts in zip(asked, answers, strict=True) for text in texts]
    found = language.answer_logprobs(model, tokenizer, items, batch_size=32)
    likely = iter([float(answer.logprobs.double().mean()) for answer in found])
    right = []
    for texts in answers:
        first, *others = (next(likely) for _ in texts)
        right.append(first > max(others))
    return _mean(right)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values)


# ---------------------------------------------------------------------------------------------------- command line


def record(settings: Settings, *, seeds: int, overwrite: bool = False, restart: bool = False) -> None:
    """Train what is not yet trained, write weights and tokenizer, and measure them: `data/runs/<name>-models.json`.

    A row for each kind, seed and split, and one for each file (its size, and the hash of its weights). Fine-tuning
    starts from the pretrained weights as they are stored.
    """
    data = questions(settings)
    tokenizer = make_tokenizer(settings, data)
    if settings.published is None:
        models.save_tokenizer(tokenizer, _folder(settings.name) / f"{settings.name}-tokenizer.json")
        tokenizer = _tokenizer(settings.name)
    new = {"vocab_size": len(tokenizer), **settings.sizes}
    sizes = {"published": settings.published} if settings.published else new
    label = {"label": published(settings).label} if settings.published else {}
    # Minutes each for a large model; the benchmark of `forgetting` asks the rest.
    asked = {"splits": ("forget10", "rehearsal10"), "choice": False} if settings.published else {}

    def made(kind: str, seed: int) -> list[Row]:
        begun = kind != "pretrained" and settings.pretrain is not None
        model, history = fit(
            settings,
            data,
            tokenizer,
            kind,
            seed,
            start=read_model(_path(settings.name, "pretrained", seed)) if begun else None,
            checkpoint=checkpoints() / f"{settings.name}-{kind}-seed{seed}.pt",
            log=True,
        )
        path = _path(settings.name, kind, seed)
        write_model(model, sizes, path)
        facts = {"kind": kind, "seed": seed}
        rows = [{"study": "knows", **facts, **row} for row in measure(read_model(path), tokenizer, data, **asked)]
        return [*rows, {"study": "file", **facts, **label, **_file(path, model, history)}]

    def found(kind: str, seed: int) -> list[Row]:
        model = published(settings).model
        facts = {"kind": kind, "seed": seed}
        return [{"study": "knows", **facts, **label, **row} for row in measure(model, tokenizer, data, **asked)]

    recording.write(
        f"{settings.name}-models",
        lambda recorder: (
            ({"kind": kind, "seed": seed}, partial(made if kind in settings.trained_kinds else found, kind, seed))
            for seed in recorder.seeds
            for kind in settings.kinds
        ),
        config=asdict(settings) | {"vocab_size": len(tokenizer), "stored": str(STORED).removeprefix("torch.")},
        seeds=range(seeds),
        data=data,
        overwrite=overwrite,
        restart=restart,
    )


def _file(path: Path, model: LlamaForCausalLM, history: History) -> Row:
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": weights_hash(path),
        "parameters": sum(p.numel() for p in model.parameters()),
        "epochs": len(history.loss),
        "loss": history.loss[-1],
        "training_s": history.seconds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    options = recording.parser("trained", __doc__, "<data>-models", seeds=3)
    options.add_argument("--data", choices=SETTINGS, default=AUTHORS.name)
    args = options.parse_args(argv)
    if not args.record:
        options.error("what is trained here is recorded too; add --record")
    record(SETTINGS[args.data], seeds=args.seeds, overwrite=args.overwrite, restart=args.restart)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
