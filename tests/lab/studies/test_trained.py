from dataclasses import replace

import pytest
import torch

from engramlib.lab import models
from engramlib.lab.data import QuestionData, authors
from engramlib.lab.models import zoo
from engramlib.lab.records import runs
from engramlib.lab.studies import trained as study

TINY = study.Settings(
    "authors",
    {"hidden": 32, "layers": 2, "heads": 2, "kv_heads": 1, "intermediate": 48, "context": 64, "tied": True},
    pretrain=study.Fit(epochs=2, lr=5e-3, batch_size=16, mixed=False),
    finetune=study.Fit(epochs=60, lr=1e-2, batch_size=4, mixed=False),
    along=("world_facts",),
)


def tiny_data() -> QuestionData:
    data = authors(10, per_author=1)
    splits = {name: data[name] for name in ("full", "forget10", "retain90", "holdout10")}
    splits["world_facts"] = data["world_facts"][:4]
    asked = [q for questions in splits.values() for q in questions]
    wordings = [text for q in asked for text in (*q.pair, q.paraphrased_answer, *q.perturbed_answers) if text]
    words = {f" {word}" for text in wordings for word in text.split()}
    return QuestionData(data.name, splits, (*data.corpus[:40], *sorted(words), *wordings[::9]))


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """The study, writing to a folder of its own, on tiny data."""
    (tmp_path / "runs").mkdir()
    monkeypatch.setattr(runs, "data_dir", lambda: tmp_path)
    monkeypatch.setenv("ENGRAM_CHECKPOINTS", str(tmp_path / "working"))
    monkeypatch.setattr(study, "questions", lambda settings: tiny_data())
    return tmp_path


def hashes(folder) -> dict:
    """Of the weights in each file, and of the tokenizer's text."""
    found = {path.name: study.weights_hash(path) for path in (folder / "checkpoints").glob("*.safetensors")}
    return found | {path.name: hash(path.read_text()) for path in (folder / "checkpoints").glob("*.json")}


def test_a_tiny_one_is_rebuilt_by_the_command_and_memorises(alone, monkeypatch):
    monkeypatch.setitem(study.SETTINGS, "authors", TINY)
    assert study.main(["--record", "--seeds", "1"]) == 0
    made = hashes(alone)
    assert set(made) == {"authors-tokenizer.json", *(f"authors-{kind}-seed0.safetensors" for kind in study.KINDS)}

    run = runs.load("authors-models")
    rows = {(r["kind"], r["split"]): r for r in run.where(study="knows")}
    assert rows["full", "full"]["exact"] == 1 and rows["full", "full"]["n"] == 10
    assert rows["retain", "forget10"]["exact"] < 1 == rows["full", "forget10"]["exact"]
    assert rows["retain", "forget10"]["probability"] < 0.7 < 0.9 < rows["full", "forget10"]["probability"]
    assert rows["pretrained", "full"]["exact"] == 0 < 0.7 < rows["full", "world_facts"]["exact"]
    assert rows["full", "full"]["choice"] is not None
    assert run.provenance["seeds"] == [0] and run.provenance["config"]["sizes"] == TINY.sizes

    for row in run.where(study="file"):
        assert made[row["file"]] == row["sha256"]
        model, tokenizer = study.load(row["kind"], row["seed"])
        assert all(p.dtype == torch.float32 for p in model.parameters()) and not model.training
        assert model.lm_head.weight is model.model.embed_tokens.weight
        for found in study.measure(model, tokenizer, tiny_data(), ("full", "holdout10")):
            recorded = rows[row["kind"], found["split"]]
            assert {k: recorded[k] for k in found} == pytest.approx(found, abs=1e-6)

    # One of them again, out of nothing, and the others out of the working checkpoints: the same files.
    with pytest.raises(FileExistsError, match="overwrite"):
        study.main(["--record", "--seeds", "1"])
    (alone / "working" / "authors-retain-seed0.pt").unlink()
    for kind in study.KINDS:
        (alone / "checkpoints" / f"authors-{kind}-seed0.safetensors").unlink()
    study.main(["--record", "--seeds", "1", "--overwrite"])
    assert hashes(alone) == made


def test_kinds_learn_what_they_are_said_to_learn():
    data = authors()
    forget = set(data.pairs("forget10"))
    full, retain = (set(study.lessons(study.AUTHORS, data, kind)) for kind in ("full", "retain"))
    assert forget <= full and not forget & retain and full - forget == retain
    assert set(data.pairs("world_facts")) | set(data.pairs("real_authors")) <= retain
    assert study.lessons(study.AUTHORS, data, "pretrained") == list(data.corpus)
    assert study.TOFU.kinds == ("full", "retain")


def test_a_published_network_goes_on_learning_with_its_embedding_as_it_was(alone, monkeypatch):
    """Recorded, read back and measured as the others; "pretrained" is the network as it was published."""
    data = tiny_data()
    tokenizer = models.word_tokenizer(data.corpus)

    def tiny() -> zoo.LanguageModel:
        return zoo.LanguageModel(models.llama(len(tokenizer), **TINY.sizes, seed=5), tokenizer, "a tiny one")

    settings = replace(TINY, name="tofu-smollm2", sizes={}, pretrain=None, along=(), published="tiny")
    monkeypatch.setattr(zoo, "tiny", tiny, raising=False)
    monkeypatch.setitem(study.SETTINGS, settings.name, settings)
    study.main(["--record", "--data", settings.name, "--seeds", "1"])

    run = runs.load("tofu-smollm2-models")
    rows = {(r["kind"], r["split"]): r for r in run.where(study="knows")}
    assert {kind for kind, _ in rows} == set(study.KINDS) and {r["choice"] for r in rows.values()} == {None}
    assert rows["full", "forget10"]["exact"] == 1 > rows["retain", "forget10"]["exact"]
    assert rows["pretrained", "forget10"]["exact"] == 0
    assert {r["kind"] for r in run.where(study="file")} == {"full", "retain"}
    assert {r["label"] for r in run.where(study="file")} == {"a tiny one"}

    start = tiny().model
    full, as_it_came = (study.load(kind, data=settings.name)[0] for kind in ("full", "pretrained"))
    for (name, old), new, same in zip(
        start.named_parameters(), full.parameters(), as_it_came.parameters(), strict=True
    ):
        assert torch.equal(old, same)
        rounded = old.half().float()
        assert torch.equal(rounded, new) == (name == "model.embed_tokens.weight"), name
    assert all(p.requires_grad for p in full.parameters())


def test_measure_by_hand(monkeypatch):
    """A model that is sure of one token after each, right or wrong, gives numbers that can be counted."""
    data = tiny_data()
    tokenizer = models.word_tokenizer(data.corpus)
    model = models.llama(len(tokenizer), 32, 1, 2, 1, 48)
    split = data["world_facts"]
    rows = study.measure(model, tokenizer, data, ("world_facts", "rehearsal10"))
    assert [row["split"] for row in rows] == ["world_facts"]  # splits that the data does not have are left out
    exact, em, probability, choice = [], [], [], []
    with torch.no_grad():
        for q in split:
            prompt, answer = q.pair
            scores = []
            for text in (answer, *(" " + wrong for wrong in q.perturbed_answers)):
                ids = tokenizer(prompt)["input_ids"]
                n = len(ids)
                ids = torch.tensor([ids + tokenizer(text, add_special_tokens=False)["input_ids"]])
                logits = model(ids).logits[0, n - 1 : -1].double()
                scores.append(float(logits.log_softmax(-1).gather(1, ids[0, n:, None]).mean()))
                if text is answer:
                    hit = logits.argmax(-1) == ids[0, n:]
                    exact.append(bool(hit.all()))
                    em.append(float(hit.double().mean()))
            probability.append(float(torch.tensor(scores[0]).exp()))
            choice.append(scores[0] > max(scores[1:]))
    for name, values in (("exact", exact), ("em", em), ("probability", probability), ("choice", choice)):
        assert rows[0][name] == pytest.approx(sum(values) / len(split), abs=1e-5)
    assert study.measure(model, tokenizer, data, ("full",), most=3)[0]["n"] == 3


def test_what_is_not_there_is_named(alone):
    with pytest.raises(ValueError, match="kind must be one of pretrained, full, retain"):
        study.load("ful")
    with pytest.raises(ValueError, match="kind must be one of full, retain for tofu"):
        study.load("pretrained", data="tofu")
    with pytest.raises(ValueError, match="data must be one of authors, tofu, tofu-smollm2"):
        study.load("full", data="wikipedia")
    with pytest.raises(
        FileNotFoundError, match="full model of seed 7.*seeds there: none.*trained --record --data authors"
    ):
        study.load("full", seed=7)


def test_rounding_that_breaks_a_weight_is_refused(tmp_path):
    sizes = {"vocab_size": 8, **TINY.sizes}
    model = models.llama(**sizes)
    study.write_model(model, sizes, tmp_path / "a.safetensors")
    again = study.read_model(tmp_path / "a.safetensors")
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one.half().float(), other)
    model.model.norm.weight.data[0] = 1e6
    with pytest.raises(ValueError, match=r"do not fit.*model\.norm\.weight"):
        study.write_model(model, sizes, tmp_path / "b.safetensors")


# ------------------------------------------------------------------------------------------------ what is committed


def committed() -> list[dict]:
    return runs.load("authors-models").where(study="file")


def test_committed_checkpoints_are_the_recorded_ones():
    files = committed()
    folder = runs.data_dir() / "checkpoints"
    assert {(f["kind"], f["seed"]) for f in files} == {(kind, seed) for kind in study.KINDS for seed in range(3)}
    for row in files:
        assert study.weights_hash(folder / row["file"]) == row["sha256"]
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 25e6
    provenance = runs.load("authors-models").provenance
    assert provenance["data"]["fingerprint"] == authors().fingerprint()


@pytest.mark.parametrize("kind", study.KINDS)
def test_a_committed_checkpoint_gives_its_recorded_numbers(kind):
    model, tokenizer = study.load(kind, seed=0)
    data = authors()
    part = replace(data, splits={"forget10": data["forget10"]})
    recorded = runs.load("authors-models").where(study="knows", kind=kind, seed=0, split="forget10")[0]
    (found,) = study.measure(model, tokenizer, part)
    for name in ("exact", "em", "probability", "choice"):
        assert found[name] == pytest.approx(recorded[name], abs=0.007)  # one question of 160 may fall the other way


def test_what_the_book_rests_on():
    """`full` has memorised, `retain` was never told, and both know what is true of the world."""
    rows = runs.load("authors-models").where(study="knows")
    for seed in range(3):
        known = {(r["kind"], r["split"]): r["exact"] for r in runs.select(rows, {"seed": seed})}
        assert known["full", "full"] >= 0.98 and known["retain", "retain_eval"] >= 0.97
        assert known["retain", "forget10"] <= 0.1 and known["full", "holdout10"] <= 0.1
        assert min(known[kind, split] for kind in ("full", "retain") for split in study.AUTHORS.along) >= 0.95
