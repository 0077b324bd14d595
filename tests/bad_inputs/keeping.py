"""Moments and Engram: what is kept, added, saved."""

from __future__ import annotations

import pickle

import torch
from torch import eye, ones

import engramlib as el
from tests.bad_inputs import Gives, Raises, Row, Scene


def one(sigma: object, count: object = 3) -> el.Moments:
    return el.Moments({"fc": sigma}, {"fc": count})


def broken(value: float, place: tuple[int, int] = (0, 0)) -> torch.Tensor:
    sigma = eye(3).double()
    sigma[place] = sigma[place[::-1]] = value
    return sigma


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (exec, ("raise SystemExit('the pickle was executed')",))


def written(scene: Scene, content: bytes) -> object:
    path = scene.path / "file.safetensors"
    path.write_bytes(content)
    return path


def saved(scene: Scene, what: el.Moments | el.Engram) -> bytes:
    what.save(scene.path / "whole")
    return (scene.path / "whole").read_bytes()


ROWS = [
    Row("Moments", "Σ that is not square", lambda s: one(ones(2, 3)), Raises(ValueError, "'fc'", r"expected shape")),
    Row("Moments", "Σ without a count", lambda s: el.Moments({"fc": eye(2)}, {}), Raises(ValueError, "'fc'", "count")),
    Row("Moments", "Σ that is a list", lambda s: one([[1.0]]), Raises(TypeError, "'fc'", "[Tt]ensor")),
    Row("Moments", "Σ of vectors, one-dimensional", lambda s: one(ones(3)), Raises(ValueError, "'fc'", "expected shape")),
    Row("Moments", "NaN on the diagonal", lambda s: one(broken(torch.nan)), Raises(ValueError, "'fc'", "NaN")),
    Row("Moments", "NaN beside the diagonal", lambda s: one(broken(torch.nan, (0, 1))), Raises(ValueError, "'fc'", "NaN")),
    Row("Moments", "an infinite entry", lambda s: one(broken(torch.inf)), Raises(ValueError, "'fc'", "infinite")),
    Row("Moments", "a negative variance", lambda s: one(broken(-1.0)), Raises(ValueError, "'fc'", "negative|variance")),
    Row("Moments", "Σ that is not symmetric", lambda s: one(ones(3, 3).triu()), Raises(ValueError, "'fc'", "symmetric")),
    Row("Moments", "complex Σ", lambda s: one(eye(2, dtype=torch.complex64)), Raises((TypeError, ValueError), "'fc'", "float|real")),
    Row("Moments", "Σ on device meta", lambda s: one(eye(2, device="meta")), Raises((TypeError, ValueError), "'fc'", "meta")),
    Row("Moments", "a negative count", lambda s: one(eye(2), -1), Raises(ValueError, "'fc'", "count")),
    Row("Moments", "a count that is NaN", lambda s: one(eye(2), float("nan")), Raises(ValueError, "'fc'", "count")),
    Row("Moments", "no layer at all", lambda s: el.extract(s.model, el.Moments({}, {}), el.Moments({}, {})), Raises(ValueError, "target", "layer")),
    Row("Moments.__getitem__", "a layer that it has not", lambda s: s.target["9"], Raises(KeyError, "'9'", "there are")),
    Row("Moments.__add__", "a number", lambda s: s.target + 1, Raises(TypeError, "Moments", "int")),
    Row("Moments.__add__", "other layers", lambda s: s.target + s.target.select(["0"]), Raises(ValueError, "different layers", "only in one")),
    Row("Moments.__add__", "another shape", lambda s: one(eye(2)) + one(eye(3)), Raises(ValueError, "'fc'", "shape")),
    Row("Moments.__sub__", "a part that is not in the total", lambda s: s.target - (s.target + s.reference), Raises(ValueError, "layer", "not contained")),
    Row("Moments.select", "a name that matches nothing", lambda s: s.target.select(["conv"]), Raises(ValueError, "'conv'", "'0'")),
    Row("Moments.compress", "no number of rows", lambda s: s.target.compress("few"), Raises(TypeError, "rank.*'few'", "number of rows")),
    Row("Moments.compress", "no rows", lambda s: s.target.compress(0), Raises(ValueError, "rank.*0", ">= 1")),
    Row("Moments.compress", "more than all of the memory", lambda s: s.target.compress(1.5), Raises(ValueError, "rank.*1.5", "between 0 and 1")),
    Row("Moments.compress", "more rows than there are inputs", lambda s: s.target.compress(50), Gives("nothing is lost", lambda r, s: torch.equal(r["0"], s.target["0"]) and r.error("0") == 0)),
    Row("Moments.__sub__", "moments of low rank", lambda s: s.target.compress(2) - s.target.compress(2), Raises(ValueError, "low rank", "collect target and reference apart")),
    Row("Moments.load", "a file that is not there", lambda s: el.Moments.load(s.path / "none"), Raises(FileNotFoundError, "none", "no file")),
    Row("Moments.load", "half a file", lambda s: el.Moments.load(written(s, saved(s, s.target)[:200])), Raises(ValueError, "file.safetensors", "damaged")),
    Row("Moments.load", "an empty file", lambda s: el.Moments.load(written(s, b"")), Raises(ValueError, "file.safetensors", "damaged")),
    Row("Moments.load", "a folder", lambda s: el.Moments.load(s.path), Raises((FileNotFoundError, ValueError), ".", "no file|not a")),
    Row("Moments.load", "a pickle that would run code", lambda s: el.Moments.load(written(s, pickle.dumps(Bomb()))), Raises(ValueError, "file.safetensors", "safetensors")),
    Row("Moments.load", "an engram", lambda s: el.Moments.load(written(s, saved(s, s.engram))), Raises(ValueError, "engramlib.engram", "engramlib.moments")),
    Row("Moments.save", "a folder in the place of the file", lambda s: s.target.save(s.path), Raises(OSError, "", "")),
    Row("Engram", "a weight without its pair", lambda s: el.Engram({"fc": ones(2)}), Raises(TypeError, "'fc'", "pair")),
    Row("Engram", "a weight that is a list", lambda s: el.Engram({"fc": ([1.0], None)}), Raises(TypeError, "'fc'", "tensors")),
    Row("Engram.__getitem__", "a layer that it has not", lambda s: s.engram["9"], Raises(KeyError, "'9'", "it has")),
    Row("Engram.__mul__", "a text", lambda s: s.engram * "x", Raises(TypeError, "Engram", "")),
    Row("Engram.__mul__", "NaN", lambda s: el.ablate(s.model, s.engram * float("nan")), Raises(ValueError, "'0'|factor", "NaN|finite")),
    Row("Engram.__truediv__", "zero", lambda s: s.engram / 0, Raises(ZeroDivisionError, "", "")),
    Row("Engram.__add__", "a number", lambda s: s.engram + 1, Raises(TypeError, "Engram", "int")),
    Row("Engram.__add__", "another shape", lambda s: s.engram + el.Engram({"0": (ones(2, 2), None)}), Raises(ValueError, "'0'", "different models")),
    Row("Engram.select", "a name that matches nothing", lambda s: s.engram.select(["conv"]), Raises(ValueError, "'conv'", "'0'")),
    Row("Engram.scaled", "a layer that it has not", lambda s: s.engram.scaled({"9": 1.0}), Raises(ValueError, "'9'", "it has")),
    Row("Engram.relative_norms", "no norms are known", lambda s: el.Engram({"0": (ones(8, 6), None)}).relative_norms(), Raises(ValueError, "'0'", "extract")),
    Row("Engram.norm_weighted", "every weight zero", lambda s: el.Engram({"0": (torch.zeros(8, 6), None)}, {"0": 1.0}).norm_weighted(), Gives("zero again, no division by it", lambda r, s: not r["0"].weight.any())),
    Row("Engram.load", "moments", lambda s: el.Engram.load(written(s, saved(s, s.target))), Raises(ValueError, "engramlib.moments", "engramlib.engram")),
    Row("Engram.load", "a bit of its header flipped", lambda s: el.Engram.load(written(s, saved(s, s.engram).replace(b"0.weight", b"7.weight", 1))), Raises(ValueError, "file.safetensors", "damaged")),
]  # fmt: skip
