"""The convolutional study: folding, what refitting does, and moments of several sample sizes from one pass."""

import pytest
import torch
from torch import nn

import engramlib as el
from engramlib.lab import models
from engramlib.lab.data.shapes import shapes
from engramlib.lab.metrics import share_taken
from engramlib.lab.studies import convnet as study
from engramlib.lab.studies.classwise import as_trained, class_losses, each_seed, effects, pair, summary


@pytest.fixture(scope="module")
def subject():
    data = shapes(2, 2, per_class=60, size=8)
    return study.trained(data, 0, study.Settings(widths=(8, 12), epochs=8, batch_size=16, parts=(5,), refit_images=60))


def same(a, b, x, atol=1e-4):
    with torch.no_grad():
        return torch.allclose(a(x), b(x), atol=atol)


def test_folding_computes_the_same_and_can_be_undone(subject):
    x = subject.data.test.x
    folded = study.fold_batchnorm(subject.model)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in folded.modules())
    assert same(folded, subject.model, x)
    with torch.no_grad():  # any edit of the folded network, biases and classifier included
        for p in folded.parameters():
            p.add_(0.1 * torch.randn_like(p, memory_format=torch.preserve_format))
    back = study.unfold_batchnorm(folded, subject.model)
    assert same(back, folded, x) and not same(back, subject.model, x, atol=1e-2)
    assert {n: p.shape for n, p in back.named_parameters()} == {n: p.shape for n, p in subject.model.named_parameters()}


def test_folding_refuses_what_does_not_fit(subject):
    with pytest.raises(ValueError, match="no convolution"):
        study.fold_batchnorm(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)))
    dead = study.fold_batchnorm(subject.model)
    like = models.resnet((8, 12), n_classes=4)
    nn.init.zeros_(like.bn1.weight)
    with pytest.raises(ValueError, match="bn1 has the weight 0"):
        study.unfold_batchnorm(dead, like)


def test_frozen_statistics_are_a_kept_bias(subject):
    """Erasing from W with BatchNorm frozen = folding and erasing with the bias kept."""
    folded = study.fold_batchnorm(subject.model)
    batches = subject.data.batches("train")
    kept = el.collect_by_concept(folded, batches, lambda b: b[1], layers=r"conv1|layer.*", bias="keep")
    found = el.extract_all(folded, kept, rcond=1e-4)[1]
    engram = el.Engram({name: subject.engrams()[1][name] for name in found})
    assert same(el.ablate(folded, found), el.ablate(subject.model, engram), subject.data.test.x, atol=1e-3)


def test_refitting_undoes_a_scale_and_nothing_else(subject):
    model, x = subject.model, subject.data.test.x
    small = study.scaled(model, 0.9)
    assert not same(small, model, x, atol=1e-2)
    original = subject.refitted(study.scaled(model, 1.0), 1)
    again = subject.refitted(small, 1)
    with torch.no_grad():  # the classifier shrinks too, and takes every logit along
        assert torch.allclose(again(x), 0.9 * original(x), atol=2e-2)


def test_moments_of_sample_sizes_add_up(subject):
    train = subject.data.train
    sizes = study.moments_by_size(subject.model, train, (5, 10**6))
    assert list(sizes) == [5, 60]
    for n, by_class in sizes.items():
        for c, moments in by_class.items():
            rows = (train.y == c).nonzero().squeeze(1)[:n]
            wanted = el.collect(subject.model, [train.x[rows]])
            assert moments.count == wanted.count
            assert all(torch.allclose(moments[name], wanted[name]) for name in wanted)


def test_one_pass_serves_the_network_and_the_folded_one(subject):
    own = study.moments_by_size(subject.model, subject.data.train, subject.settings.parts)
    for size, by_class in own.items():
        for c, moments in by_class.items():
            found = subject._parts()[size][c]
            assert found.count == moments.count
            for name, sigma in moments.items():
                torch.testing.assert_close(found[name], sigma, rtol=1e-4, atol=1e-5 * float(sigma.abs().max()))


def test_shares_of_all_classes_add_up_to_one(subject):
    total = sum(subject.moments.values())
    found = [share_taken(subject.model, e, total) for e in subject.engrams().values()]
    for name in found[0]:
        assert sum(f[name] for f in found) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("norm", study.NORMS)
def test_erasing_takes_the_class_and_not_the_others(subject, norm):
    (line,) = effects(study.erase(subject, norm=norm), by=())
    before = sum(subject.before["test"]) / 4
    assert line["erased"] < before - 0.3 and line["others"] > line["erased"] + 0.2
    rows = study.erase(subject, [1], norm=norm, layers="late", splits=("val",))
    assert {(r["norm"], r["layers"], r["split"], r["erased"]) for r in rows} == {(norm, "late", "val", 1)}


def test_controls_do_not_single_out_the_class(subject):
    rows = study.controls(subject)
    assert {r["control"] for r in rows} == {"random, equal effect", "shuffled labels"}
    engram, control = (effects(found, by=())[0] for found in (study.erase(subject), rows))
    assert control["others"] - control["erased"] < 0.5 * (engram["others"] - engram["erased"])


def test_shares_of_the_first_layer_know_no_class_and_those_of_the_last_one_do(subject):
    rows = study.shares(subject)
    found = {(r["layer"], r["side"]): [] for r in rows}
    for row in rows:
        found[row["layer"], row["side"]].append(row["share"])
    mean = {key: sum(values) / len(values) for key, values in found.items()}
    assert mean["fc", "target"] - mean["fc", "kept"] > 3 * (mean["conv1", "target"] - mean["conv1", "kept"])
    own = share_taken(subject.model, subject.engrams()[2], subject.moments[2])
    assert own["fc"] in found["fc", "target"]


def test_smaller_weights_erase_nobody_and_new_statistics_undo_them(subject):
    rows = study.smaller(subject, (2, 1000))
    assert {r["erased"] for r in rows} == {-1} and {r["n_classes"] for r in rows} == {2, 1000}
    nearly = [r for r in rows if r["n_classes"] == 1000]
    assert all(abs(r["before"] - r["after"]) < 0.05 for r in nearly)
    found = study.scale_alone(subject, (1, 2), factor=0.5)
    assert set(found) == {*study.NORMS, "no edit, refitted"}
    for a, b in zip(found["refitted"], found["no edit, refitted"], strict=True):
        assert a["after"] == pytest.approx(b["after"], abs=0.05) and a["erased"] == b["erased"]
    assert [r["after"] for r in found["frozen"]] != [r["after"] for r in found["refitted"][:4]]


def test_equal_erasure_raises_alpha_until_as_much_is_gone(subject):
    found = study.at_equal_erasure([subject], (1, 2), {1.0: (0.0, 1.0), 50.0: (0.0,)})
    assert list(found) == [1.0] and found[1.0][0] == 1.0  # an α of 0 takes nothing, and λ = 50 has no other
    assert found[1.0][1] == study.erase(subject, (1, 2), lam=1.0, alpha=1.0)  # on test images


def test_the_cheapest_that_leaves_little_is_chosen():
    lines = [{"erased": e, "others_loss": lose} for e, lose in ((0.01, 0.2), (0.05, 0.1), (0.2, 0.0))]
    assert study.choose(lines) is lines[1]
    assert study.choose(lines, left=0.001) is lines[0]  # nobody leaves so little: the one that leaves least


def test_residue_of_the_network_itself_and_of_a_mask(subject):
    mask = study.unfold_batchnorm(subject.folded, subject.model)
    with torch.no_grad():
        mask.fc.bias[1] = -1e4
    rows = study.residue([subject], {"as trained": [subject.model], "mask": [mask]}, 1)
    itself, masked = rows
    assert itself["back"].needed == 0 and itself["right"] == masked["right"]
    assert masked["probe"] == itself["probe"] and masked["back"].needed != 0


def test_class_losses_leave_out_the_erased_class_and_pairs_are_text():
    def row(seed, erased, tested, after):
        return {"study": "s", "split": "test", "seed": seed, "erased": erased, "tested": tested, "before": 1.0,
                "after": after}  # fmt: skip

    rows = [row(s, e, t, 0.0 if e == t else 0.5 + 0.1 * s) for s in range(2) for e in range(2) for t in range(2)]
    assert torch.allclose(class_losses(rows, 2), torch.tensor([[0.5, 0.5], [0.4, 0.4]]))
    (line,) = summary(rows).values()
    assert pair(line, "others") == "0.55 ± 0.07" and pair(line, "others_loss", digits=1, times=100) == "45.0 ± 7.1"
    assert pair(summary(rows[:4])[()], "others") == "0.50"
    assert each_seed(rows, "others", 100) == pytest.approx([50.0, 60.0]) and as_trained(rows) == [1.0, 1.0]


def test_wrong_arguments_are_named(subject):
    with pytest.raises(ValueError, match="norm must be one of frozen, refitted, folded"):
        subject.without(0, norm="none")
    with pytest.raises(ValueError, match="layers must be one of"):
        subject.without(0, layers="early")


def test_the_recorded_study_in_small(monkeypatch):
    monkeypatch.setitem(study.RECIPES, 10, {"epochs": 1})
    rows = study.by_classes(10, 0, per_class=12)
    assert {r["norm"] for r in rows} == {"frozen", "refitted", "scale only", "scale only, refitted"}
    assert {r["erased"] for r in rows if r["norm"] == "frozen"} == {0, 2, 4, 6, 8}
