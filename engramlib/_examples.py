"""Which rows of what a layer reads belong to which example of the batch.

What a layer reads has leading dimensions: (batch, d), (batch, tokens, d), but also (tokens, batch, d), (batch ·
windows, tokens, d) or (batch · tokens, d). As one list, the rows of n examples are (outer, n, inner) in all of these.
Where the shape leaves one way only, that is taken, at no cost. Where it leaves several (as many tokens as examples, or
a multiple) the model is asked: it runs again on the same batch with one example replaced by another, and the rows that
change are that example's. What is found holds for the whole pass.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from engramlib._products import full_precision
from engramlib.layers import Layer, supported_layers
from engramlib.running import Batch, Forward, handed_back, run

Key = str | None  # a layer's name (of an expert: its owner's); None = the model's output
Form = tuple[int, str]  # the dimension that the examples are in, and whether they are all of it, or a part of it
Forms = dict[tuple[Key, int], Form]  # of a layer's inputs of so many leading dimensions
Dims = tuple[int | None, ...]  # the dimension of each tensor of a batch that holds the example
Prints = dict[Key, list[tuple[tuple[int, ...], Tensor, float]]]  # see `_print`, for each call of a layer
Seen = tuple[Key, tuple[int, ...], int, Tensor]  # a layer, its leading dimensions, who was replaced, how rows moved

UNFIT, UNCLEAR = "does not fit", "is not clear"
_PRINTS = 4  # random numbers that stand for a row when two runs are compared


class Examples:
    """Finds the examples of each batch in tensors whose leading dimensions are ``lead``.

    Args:
        model, forward: what runs; the model is in evaluation mode.
        layers: those that are asked about.
        dim: the dimension of the model's inputs that holds the example, if the user said it.

    Attributes:
        asking: the model runs for this object: what it reads now is not to be counted.
    """

    def __init__(
        self, model: nn.Module, layers: Mapping[str, Layer], forward: Forward | None = None, dim: int | None = None
    ) -> None:
        if dim is not None and (not isinstance(dim, int) or isinstance(dim, bool) or dim < 0):
            raise ValueError(f"examples: expected a dimension of the model's input (0, 1, ...) or None, got {dim!r}")
        self.model, self.layers, self.forward, self.dim = model, layers, forward, dim
        self.forms: Forms = {}
        self.asking = self.asked = self.stuck = self.sides_checked = False
        self.batch: Batch = None

    def begin(self, batch: Batch) -> None:
        self.batch, self.asked = batch, False

    # ------------------------------------------------------------------------------------------------------ what fits

    def outer(self, key: Key, lead: tuple[int, ...], n: int, slot: int | None = None) -> int | None:
        """How many blocks of n the rows are made of: they are (outer, n, inner). None = :meth:`ask` first.

        Raises ``ValueError`` where n examples do not fit, or after asking, where it is still not clear.
        """
        forms = _forms(lead, n)
        if n == 1 and n not in lead and not any(n in t.shape[:2] for t in tensors_in(self.batch)):
            forms = {}
        if not forms:
            raise ValueError(UNFIT)
        if len(forms) == 1:
            (form,) = forms
            if math.prod(lead) > n > 1:
                self.forms.setdefault((key, slot or len(lead)), form)
            return forms[form]
        known = self.forms.get((key, slot or len(lead)))
        if known not in forms and self.asked and self.dim is not None:  # the model could not say it: the user's word
            known = next((form for form in ((self.dim, "all"), (self.dim, "outer")) if form in forms), None)
        if known in forms:
            return forms[known]
        if self.asked:
            raise ValueError(UNFIT if self.stuck else UNCLEAR)
        return None

    def lay(self, key: Key, shape: torch.Size, lead: tuple[int, ...], labels: Tensor) -> tuple[Tensor, int] | None:
        """``labels``, (batch,) or (batch, tokens), as one list for the first dimensions of a tensor, and how many.

        None = :meth:`ask` first. Raises ``ValueError`` as :meth:`outer`, and for labels of tokens in an
        encoder-decoder model, where they could be those of the other side.
        """
        n, size = len(labels), math.prod(lead)
        try:
            if labels.numel() == n:
                outer = self.outer(key, lead, n)
                if outer == 1 and lead[0] == n:
                    return labels.flatten(), 1
                if outer is None:
                    return None
                return labels.reshape(1, n, 1).expand(outer, n, size // (outer * n)).flatten(), len(lead)
            self.check_sides()
            tokens = labels.shape[1]
            cover = next((i for i in range(1, len(lead) + 1) if math.prod(lead[:i]) == n * tokens), 0)
            sides = [side for side in lead[:cover] if side != 1]
            if sides == [n, tokens] != [tokens, n] or (n == 1 and sides == [tokens]):
                outer = 1
            elif sides == [tokens, n] != [n, tokens]:
                outer = tokens
            elif sides in ([n, tokens], [n * tokens]):
                outer = self.outer(key, lead[:cover], n, len(lead))
            else:
                raise ValueError(UNFIT)
        except ValueError as error:
            raise self.error(key, shape, labels, str(error)) from None
        return None if outer is None else ((labels if outer == 1 else labels.T).flatten(), cover)

    def error(self, key: Key, shape: torch.Size, labels: Tensor | int, what: str) -> ValueError:
        """What went wrong, in full."""
        who = "the model's output has" if key is None else f"layer {key!r} reads an input of"
        if what == UNFIT and isinstance(labels, Tensor):
            return ValueError(
                f"{who} shape {tuple(shape)}, which does not fit rows or concepts of shape {tuple(labels.shape)}:"
                " give one value per example or per token of the batch (if it reads none of the examples, such as"
                " positions, or is an expert that is a module of its own, choose other layers with `layers`)"
            )
        if what not in (UNFIT, UNCLEAR):
            return ValueError(what)
        n = labels if isinstance(labels, int) else len(labels)
        return ValueError(
            f"{who} shape {tuple(shape)}, and which of its rows belong to which of the {n} examples is not clear:"
            " several layouts fit, or none, and running the model with one example replaced by another did not tell"
            " (the rows of several examples changed, none did, or the batch has no tensors to replace them in). Say"
            " which dimension of the model's inputs holds the example (examples=0 or examples=1), use batches with"
            " another number of examples than of tokens, or choose other layers"
        )

    def check_sides(self) -> None:
        """Raise where (batch, tokens) could be laid over the tokens of an encoder and of a decoder."""
        if self.sides_checked or self.forward is not None:
            return
        self.sides_checked = True
        kinds = [type(m) for m in self.model.modules()]
        two = any(issubclass(k, nn.TransformerDecoderLayer) for k in kinds)
        if not two and not getattr(getattr(self.model, "config", None), "is_encoder_decoder", False):
            return
        sides = {_side(name) for name in self.layers}
        if len(sides) > 1:
            raise ValueError(
                f"{type(self.model).__name__} reads two sequences, one in its encoder and one in its decoder, and rows"
                " or concepts of shape (batch, tokens) belong to one of them: choose that side's layers with `layers`"
                ' (without the keys and values of cross-attention, which read the encoder\'s: layers=r"encoder\\..*",'
                " say), or give one value per example"
            )

    # ------------------------------------------------------------------------------------------------------ asking it

    def ask(self, n: int | None = None) -> int | None:
        """Run the model on this batch with examples replaced, and keep what that says. The number of examples.

        Args:
            n: how many there are; None = find it: the dimension of the inputs along which rows keep apart.

        Cost: a forward pass, and one for each replaced example (1 to 4), of every way the inputs may hold them.
        """
        self.asked = True
        ways = self.ways(n)
        best: tuple[set[Key], int | None, Forms, Dims] | None = None
        self.stuck = not ways and self.widest() is not None
        self.asking = True
        try:
            with handed_back(self.model), torch.no_grad():
                base = self.prints(self.batch)
                for count, dims in ways:
                    wrong, forms = self.judge(base, count, dims, sure=len(ways) == 1)
                    if best is None or len(wrong) < len(best[0]):
                        best = wrong, count, forms, dims
                    elif wrong and len(wrong) == len(best[0]):
                        best = wrong, None, {}, ()  # a tie of two bad answers is none
                    if not wrong:
                        break
        finally:
            self.asking = False
        if best is None or best[1] is None or (n is None and None in best[0]):
            return None  # nothing explains what happened, or an example changes the output of others
        self.forms.update(best[2])
        if n is None:
            self.dim = best[3][next(i for i, t in enumerate(tensors_in(self.batch)) if t is self.widest())]
        return best[1]

    def widest(self) -> Tensor | None:
        """The input with the most dimensions."""
        return max(tensors_in(self.batch), key=lambda t: t.ndim, default=None)

    def number(self) -> int | None:
        """How many examples this batch has; None = :meth:`ask` first."""
        widest = self.widest()
        return None if self.dim is None or widest is None or widest.ndim <= self.dim else widest.shape[self.dim]

    def ways(self, n: int | None) -> list[tuple[int, Dims]]:
        """How the batch's tensors may hold the example: its number and each tensor's dimension."""
        tensors, widest = list(tensors_in(self.batch)), self.widest()
        found: dict[tuple[int, Dims], None] = {}
        for dim in (0, 1) if self.dim is None else (self.dim,):
            count = n or 0
            if n is None:
                if widest is None or widest.ndim <= dim or (dim and not is_sequence(widest)):
                    continue
                count = int(widest.shape[dim])
            for low in (dim, 0):  # where the inputs are (tokens, batch), a mask may still be (batch, tokens)
                dims = tuple(_holds(t, dim if t.ndim > 2 else low, count) for t in tensors)
                if any(d is not None for d in dims):
                    found[count, dims] = None
        return sorted(found, key=lambda way: way[0] == 1)  # sorting is stable; a batch of one cannot be wrong

    def judge(self, base: Prints, n: int, dims: Dims, sure: bool) -> tuple[set[Key], Forms]:
        """(what mixes examples, the form of all else), if the batch holds its n examples in ``dims``.

        Both ends of the batch are replaced where the dimension is not ``sure``: tokens are mixed forward or backward.
        """
        seen: list[Seen] = []
        verdict: tuple[set[Key], Forms] = (set(), {})
        for turn, e in enumerate(dict.fromkeys((0, n - 1, n // 2, 1)) if n > 1 else ()):
            batch = _replaced(self.batch, dims, e, n)
            if batch is None:
                continue
            now = self.prints(batch)
            for key, before in base.items():  # experts of the user's own read other numbers of tokens each time
                after = now.get(key, [])
                if [lead for lead, *_ in before] == [lead for lead, *_ in after]:
                    pairs = zip(before, after, strict=True)
                    seen += [(key, lead, e, _moved(old, new, eps)) for (lead, old, eps), (_, new, _) in pairs]
            # Bit for bit; and where that explains nothing (a GPU's sums differ in order), up to rounding.
            verdict, open_ = min((_explain(seen, n, slack) for slack in (0.0, 1.0)), key=lambda v: len(v[0][0]))
            if not open_ and (sure or turn):
                break
        return verdict

    def prints(self, batch: Batch) -> Prints:
        """Run the model: of each tensor that a layer reads, and of the output, a few numbers that tell rows apart."""
        found: Prints = {}
        layers = {**supported_layers(self.model), **self.layers}
        watched = {id(m): (key, base, m) for layer in layers.values() for key, base, m in [watch(layer)]}
        hooks = []

        def hook(key: str, base: int | None) -> Callable[..., None]:
            def pre_hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                x = next((v for v in (*args, *kwargs.values()) if isinstance(v, Tensor)), None)
                if x is not None and x.is_floating_point() and x.numel():
                    x = x.unsqueeze(0) if x.ndim == (base or 1) else x
                    found.setdefault(key, []).append(_print(x, lead_of(x, base)))

            return pre_hook

        try:
            for key, base, module in watched.values():
                hooks.append(module.register_forward_pre_hook(hook(key, base), with_kwargs=True))
            output = _output(run(self.model, batch, self.forward))
        finally:
            for handle in hooks:
                handle.remove()
        if output is not None and output.ndim > 0 and output.numel():
            output = output.unsqueeze(-1) if output.ndim == 1 else output
            found[None] = [_print(output, lead_of(output, None))]
        return found


def watch(layer: Layer) -> tuple[str, int | None, nn.Module]:
    """(key, example_ndim, module) of what is watched for a layer: of an expert, the module that owns them all."""
    if layer.kind.routed:
        return layer.owner_name, None, layer.owner
    return layer.name, layer.kind.example_ndim(layer.module), layer.module


def lead_of(x: Tensor, base: int | None) -> tuple[int, ...]:
    """The leading dimensions of what a layer reads: all but the last, or of images, which keep theirs, the first."""
    return tuple(x.shape[:-1] if base is None else x.shape[:1])


def _forms(lead: tuple[int, ...], n: int) -> dict[Form, int]:
    """Where n examples may be: in a dimension of that size, or as the outer or the inner part of one. form -> outer."""
    if n <= 1:
        return {(0, "all"): 1} if n == 1 or 0 in lead else {}
    found, before = {}, 1
    for dim, size in enumerate(lead):
        if size == n:
            found[dim, "all"] = before
        elif size and size % n == 0:
            found[dim, "outer"], found[dim, "inner"] = before, before * (size // n)
        before *= size
    return found


def _explain(seen: list[Seen], n: int, slack: float) -> tuple[tuple[set[Key], Forms], bool]:
    """The forms that explain which rows moved: ((layers without one, layer -> form), whether any is still open)."""
    possible: dict[tuple[Key, int], set[Form]] = {}
    open_: set[tuple[Key, int]] = set()
    for key, lead, e, moved in seen:
        rows, forms = (moved > slack).nonzero()[:, 0], _forms(lead, n)
        slot, size = (key, len(lead)), math.prod(lead)
        if len(rows):
            fits = {f for f, outer in forms.items() if bool(((rows // (size // (outer * n))) % n == e).all())}
            possible[slot] = possible.get(slot, set(forms)) & fits
        elif len(forms) > 1:
            open_.add(slot)
    found = {slot: next(iter(forms)) for slot, forms in possible.items() if len(forms) == 1}
    wrong = {key for (key, _), forms in possible.items() if not forms}
    return (wrong, found), bool((open_ | possible.keys()) - found.keys())


def _print(x: Tensor, lead: tuple[int, ...]) -> tuple[tuple[int, ...], Tensor, float]:
    """Its leading dimensions, a few random projections of each row, and what part of them may be rounding."""
    rows = x.detach().reshape(math.prod(lead), -1)
    wide = rows if rows.dtype == torch.float64 else rows.float()
    generator = torch.Generator().manual_seed(wide.shape[1])
    turn = torch.randn(wide.shape[1], _PRINTS, generator=generator, device="cpu").to(wide)
    with full_precision():
        return lead, wide @ turn, torch.finfo(x.dtype).eps ** 0.5


def _moved(a: Tensor, b: Tensor, eps: float) -> Tensor:
    """How far each row moved, in units of what may be rounding: 0 = not at all, or NaN as before."""
    size = torch.nan_to_num(a.abs(), 0.0, 0.0, 0.0).amax().clamp_min(1e-30) * eps
    gap = torch.where((a == b) | (a.isnan() & b.isnan()), 0.0, (a - b).abs() / size)
    return torch.nan_to_num(gap, math.inf).amax(-1)


# ------------------------------------------------------------------------------------------------ batches and outputs


def _parts(batch: Batch) -> dict[Any, Any] | list[Any] | None:
    """What a batch is made of, if it can be taken apart and put together again."""
    if isinstance(batch, (tuple, list)):
        return list(batch)
    return dict(batch) if isinstance(batch, Mapping) else dict(getattr(batch, "__dict__", {})) or None


def tensors_in(batch: Batch) -> Iterator[Tensor]:
    """Every tensor in a batch."""
    if isinstance(batch, Tensor):
        yield batch
    elif parts := _parts(batch):
        for part in parts.values() if isinstance(parts, dict) else parts:
            yield from tensors_in(part)


def is_sequence(x: Tensor) -> bool:
    """Whether the second dimension of an input may be something else than features."""
    return x.ndim > 2 or (x.ndim == 2 and not x.is_floating_point())


def _holds(x: Tensor, dim: int, n: int) -> int | None:
    """The dimension of ``x`` that its n examples are in, ``dim`` if it can be that."""
    others = [d for d in (0, 1) if d < 1 or is_sequence(x)]
    return next((d for d in (dim, *others) if x.ndim > d and x.shape[d] == n), None)


def _replaced(batch: Batch, dims: Dims, e: int, n: int) -> Batch | None:
    """The batch with example ``e`` overwritten by another that differs from it; None if there is none."""
    tensors = list(tensors_in(batch))
    held = [(t, d) for t, d in zip(tensors, dims, strict=True) if d is not None]
    others = ((e + step) % n for step in range(1, n))
    other = next((f for f in others if any(not torch.equal(t.select(d, e), t.select(d, f)) for t, d in held)), None)
    changed: list[Tensor] = []
    for t, d in zip(tensors, dims, strict=True):
        if d is not None:
            part = t.select(d, e)
            value = t.select(d, other) if other is not None else part.roll(1, 0) if part.ndim else part
            if other is None and t.is_floating_point() and torch.equal(value, part):
                value = 0.5 * part + 1
            t = t.clone()
            t.select(d, e).copy_(value)
        changed.append(t)
    if all(torch.equal(a, b) for a, b in zip(tensors, changed, strict=True)):
        return None
    return _rebuilt(batch, iter(changed))


def _rebuilt(batch: Batch, tensors: Iterator[Tensor]) -> Batch:
    """The batch with its tensors replaced, in order."""
    if isinstance(batch, Tensor):
        return next(tensors)
    parts = _parts(batch)
    if not parts:
        return batch
    if isinstance(parts, list):
        row = [_rebuilt(part, tensors) for part in parts]
        return type(batch)(*row) if hasattr(batch, "_fields") else type(batch)(row)
    new = {key: _rebuilt(part, tensors) for key, part in parts.items()}
    if isinstance(batch, Mapping):
        kind: Any = type(batch)
        return kind(new)
    other = copy.copy(batch)
    other.__dict__.update(new)
    return other


def _output(output: Any) -> Tensor | None:
    """The tensor that a model returned, if it can be found."""
    if isinstance(output, Mapping):
        output = output.get("logits", next(iter(output.values()), None))
    output = getattr(output, "logits", output)
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    return output if isinstance(output, Tensor) and output.is_floating_point() else None


def _side(name: str) -> str:
    """Which sequence a layer of an encoder-decoder model reads, by its name."""
    head, _, last = name.rpartition(".")
    crossed = any(word in head.lower() for word in ("cross", "encdec", "encoder_attn", "multihead_attn"))
    if (crossed and last[:1] in "kv") or head.split(".")[0] == "encoder" or ".encoder." in f".{head}.":
        return "encoder"
    return "decoder"
