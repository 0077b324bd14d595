"""Engrams while learning: moments that stream inside a training loop, from the passes that it makes anyway."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from engramlib import _files
from engramlib._products import Half, mirror, resolved
from engramlib._streams import Sampler, Slot, Sum, merged, packed, unpacked
from engramlib.collecting import listening, recorder_of
from engramlib.layers import Layer
from engramlib.moments import Identity, Moments
from engramlib.protection import positive
from engramlib.running import Batch, Forward, Selector, calling_layers, device_of, evaluating, labels_of, to_device

KIND = "engramlib.online"


class OnlineMoments:
    """Moments of every layer's input that stream while a model learns, from the forward passes it makes anyway.

    After T steps, with Sₜ = Σ x xᵀ over the columns that the layer read in step t,

        Σ = Σₜ γ^(T−t) Sₜ   (``decay`` γ, or ``half_life`` h: γ = 2^(−1/h)),   or the last n terms alone (``window`` n).

    With neither it is the plain sum. A step is an optimiser's step, however many passes it takes; one without data
    lets the past fade. Columns were read under the weights of their time: Σ is what the layer *was* shown, not what
    :func:`engramlib.collect` would find now.

    **Sampling.** ``rate`` p < 1 counts, of n rows (vectors; whole images where a layer reads images), ⌊pn⌋ or ⌈pn⌉ at
    random, pn on average, for each pass and concept, and divides by p: Σ̂ is unbiased. No two rows are drawn together
    more often than independent ones would be, so with wₜ = γ^(T−t), and Y = x xᵀ of a row (of all patches of an image)

        E‖Σ̂ − Σ‖² ≤ (1/p − 1) Σₜ wₜ² Σ ‖Y‖²,   for vectors of equal length   E‖Σ̂ − Σ‖² / ‖Σ‖² ≤ (1/p − 1) r / m,

    with r = (tr Σ)² / ‖Σ‖², the number of directions in use, and m = (Σ w)² / Σ w², the number of rows in memory.

    Args:
        model: it trains as before: no parameter, buffer, flag or random number of it is touched.
        concepts: one integer per example or token of a batch, as in :func:`engramlib.collect_by_concept`; each concept
            has its own sums. None = one sum of everything.
        decay: γ in (0, 1]. half_life: steps after which a column counts half. window: a whole number of steps. At most
            one of the three.
        rate: p in (0, 1].
        seed: of the sampling, which has a generator of its own.
        layers, rows, forward, bias, dtype, device, examples, exact: as in :func:`engramlib.collect`. ``forward`` is
            needed only where the model has to be asked whose rows are whose.

    Raises:
        TypeError, ValueError: as :func:`engramlib.collect`; in :meth:`watch`, and then the open step is taken back.

    Gradient checkpointing: what runs again in the backward pass is not counted again. Attention's projections are
    called one by one inside the block, so there keep the backward pass of a checkpointed block inside as well. Compiled
    code runs eagerly inside the block. Whatever runs inside counts: evaluate outside.

    Cost: p·n·d²/2 multiply-adds per distinct input and pass; 4 d² bytes for each concept and distinct input, twice
    while a step is open, and n times with ``window`` n. Source: ours; chapter 19.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> model, steps = nn.Linear(3, 2, bias=False), torch.randn(5, 8, 3)
        >>> tracker = OnlineMoments(model, half_life=2)
        >>> for x in steps:
        ...     with tracker.watch():
        ...         loss = model(x).square().mean()
        ...     tracker.step()  # beside the optimiser's
        >>> weights = 0.5 ** ((4 - torch.arange(5)) / 2)
        >>> sigma = sum(w * x.T @ x for w, x in zip(weights, steps))
        >>> torch.allclose(tracker.moments()[""], sigma.double(), rtol=1e-5)
        True
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        concepts: Selector | None = None,
        decay: float | None = None,
        half_life: float | None = None,
        window: int | None = None,
        rate: float = 1.0,
        layers: str | Iterable[str] | None = None,
        rows: Selector | None = None,
        forward: Forward | None = None,
        bias: str = "absorb",
        dtype: torch.dtype = torch.float64,
        device: str | torch.device | None = None,
        examples: int | None = None,
        exact: bool = False,
        seed: int = 0,
    ) -> None:
        if isinstance(model, nn.DataParallel):
            raise TypeError("model: DataParallel runs copies that nobody watches; watch the model that it wraps")
        if concepts is not None and not callable(concepts):
            raise TypeError("concepts: expected a function of a batch, for instance `lambda batch: batch[1]`")
        if sum(value is not None for value in (decay, half_life, window)) > 1:
            raise ValueError("decay, half_life, window: give one of them at most")
        if window is not None and (not isinstance(window, int) or isinstance(window, bool) or window < 1):
            raise ValueError(f"window: expected a whole number of steps >= 1, got {window!r}")
        if not isinstance(seed, int):
            raise TypeError(f"seed: expected an integer, got {seed!r}")
        if half_life is not None:
            decay = 2.0 ** (-1.0 / positive("half_life", half_life, math.inf))
        self.model, self.concepts, self.rows = model, concepts, rows
        self.decay, self.window = positive("decay", 1.0 if decay is None else decay), window
        self.steps = self.passes = 0
        self._past: deque[list[Slot]] = deque(maxlen=window or 1)  # one part for all steps, or one for each
        self._required = layers is not None
        how: dict[str, Any] = {"bias": bias, "dtype": dtype, "device": device, "examples": examples, "exact": exact}
        self._recorder = recorder_of(Sampler, model, layers, rows, forward, **how)
        self._recorder.rate, self._recorder.seed = positive("rate", rate), seed

    @contextmanager
    def watch(self, batch: Batch = None) -> Iterator[None]:
        """Count what the layers read inside the block: ``with tracker.watch(batch): loss = ...``.

        ``batch`` is for ``concepts`` and ``rows``, and what the model can be called with. An error inside the block,
        or about what was read, takes back the whole open step, passes before included. Raises ``ValueError`` for NaN
        or infinite inputs and labels that do not fit.
        """
        recorder, place = self._recorder, device_of(self.model)
        if self.concepts or self.rows:
            if batch is None:
                raise ValueError("batch: `concepts` and `rows` ask about it; say `with tracker.watch(batch):`")
            batch = to_device(batch, place)
            recorder.labels = labels_of(batch, self.rows, self.concepts, place)
        recorder.begin(self.passes, batch)
        try:
            with calling_layers(self.model), listening(recorder):
                yield
            recorder.close_pass()
            if recorder.waiting and recorder.labels is not None:
                with evaluating(self.model):
                    recorder.examples.ask(len(recorder.labels))
                recorder.close_pass()
            self.passes += 1
            recorder.busy = False
        except BaseException:
            recorder.clear()
            raise

    def step(self) -> None:
        """A step is over: the past fades by γ, and what was watched since the last step comes in whole."""
        steps = self.steps + 1
        part = self._recorder.harvest(steps, by_concept=self.concepts is not None)
        if self.window is None and self._past:
            part = merged(self._past[0], part, self.decay)
        part = self._folded(part, lambda sum: sum.is_full)
        self.steps = steps
        self._past.append(part)

    def _folded(self, part: list[Slot], which: Callable[[Sum], bool]) -> list[Slot]:
        """The part with the waiting rows of some sums multiplied."""
        recorder, result = self._recorder, []
        with torch.no_grad():
            for slot in part:
                layer = recorder.layers[slot.names[0]]
                zeros = partial(recorder.zeros, layer, layer.weight.device)
                result.append(
                    slot._replace(
                        sums={
                            concept: sum.folded(self.decay, zeros, recorder.exact) if which(sum) else sum
                            for concept, sum in slot.sums.items()
                        }
                    )
                )
        return result

    def moments(self, concept: Hashable = None) -> Moments:
        """Σ of a concept (of everything, without ``concepts``) after the last step, as ordinary moments of the model.

        ``count`` is the weighted number of the columns that Σ rests on, Σₜ wₜ nₜ, rounded: of a sample, the drawn ones.
        Raises ``ValueError`` where there is none yet.
        """
        found = self._found([concept])
        if concept not in found:
            there = ", ".join(map(repr, self.by_concept())) or "none"
            raise ValueError(f"concept: no column of {concept!r} is in memory; there are {there}")
        return found[concept]

    def by_concept(self) -> dict[Hashable, Moments]:
        """Concept -> moments, in order: what :func:`engramlib.extract_all` takes."""
        return self._found(None)

    def _found(self, wanted: list[Hashable] | None) -> dict[Hashable, Moments]:
        slots: list[Slot] = []
        for part in self._past:
            slots = merged(slots, part, self.decay)
        slots = self._folded(slots, lambda sum: True)
        if not slots:
            raise ValueError("there are no moments yet: `with tracker.watch(batch): ...`, then `tracker.step()`")
        place, layers = {name: slot for slot in slots for name in slot.names}, self._recorder.layers
        names = self._recorder.reached(place, required=self._required)
        there = dict.fromkeys(concept for slot in slots for concept in slot.sums)
        identity = {name: self._identity(layers[name], place[name]) for name in names}
        result = {}
        for concept in sorted(there, key=_place) if wanted is None else wanted:
            if concept in there:
                now = {id(slot): self._now(slot, concept, layers[slot.names[0]]) for slot in slots}
                sigma, count = ({name: now[id(place[name])][k] for name in names} for k in (0, 1))
                result[concept] = Moments._known(sigma, count, identity)
        return result

    def _now(self, slot: Slot, concept: Hashable, layer: Layer) -> tuple[Any, Any]:
        """Σ as it is after the last step, and its count."""
        if concept not in slot.sums:  # an expert that was never chosen for it
            return self._recorder.zeros(layer, layer.weight.device), 0
        sigma, made, _, columns, at = slot.sums[concept]
        weight = self.decay ** (self.steps - at)
        scale = self.decay ** (self.steps - made) / self._recorder.rate
        assert isinstance(sigma, (Half, torch.Tensor))  # all rows are folded
        now = sigma.like(sigma.flat * scale) if isinstance(sigma, Half) else sigma * scale
        if isinstance(now, torch.Tensor):
            mirror(now)
        return now, max(1, round(weight * columns))

    def _identity(self, layer: Layer, slot: Slot) -> Identity:
        absorbed = self._recorder.absorb and layer.has_bias
        worst = max((resolved(s.sigma) for s in slot.sums.values() if s.sigma is not None), default=0.0)
        return Identity.of(layer.module, layer.kind.reading(layer.module), absorbed, worst)

    # ------------------------------------------------------------------------------------------------- kept, resumed

    def state_dict(self) -> dict[str, Any]:
        """All that goes on from here, as tensors and plain values: for ``torch.save`` beside the optimiser's.

        What was watched since the last step is not in it: save after :meth:`step`.
        """
        self._past = deque((self._folded(part, lambda sum: True) for part in self._past), maxlen=self.window or 1)
        parts, tensors = packed(self._past)
        header = {"steps": self.steps, "passes": self.passes, "settings": self._settings(), "parts": parts}
        return {"header": header, "tensors": tensors}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from a :meth:`state_dict`. Raises ``ValueError`` if it is of other settings or another model."""
        try:
            header, settings = state["header"], self._settings()
            kept = dict(header["settings"])
            steps, passes = int(header["steps"]), int(header["passes"])
            if differ := [key for key in {**settings, **kept} if settings.get(key) != kept.get(key)]:
                said = "; ".join(f"{key} was {kept.get(key)!r}, here it is {settings.get(key)!r}" for key in differ)
                raise ValueError(f"it is of other settings or another model: {said}")
            past = unpacked(header["parts"], state["tensors"], self._recorder)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ValueError(f"state: not what state_dict() of this tracker gives: {error}") from error
        self.steps, self.passes, self._past = steps, passes, deque(past, maxlen=self.window or 1)
        self._recorder.clear()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write :meth:`state_dict` to ``path`` (safetensors)."""
        state = self.state_dict()
        _files.save(path, KIND, state["tensors"], state["header"])

    def load(self, path: str | os.PathLike[str]) -> None:
        """Go on from what :meth:`save` wrote, by a tracker of the same model and settings."""
        tensors, header = _files.load(path, KIND)
        self.load_state_dict({"header": header, "tensors": tensors})

    def _settings(self) -> dict[str, Any]:
        recorder = self._recorder
        shapes = {name: list(layer.weight.shape) for name, layer in recorder.layers.items()}
        how = {"decay": self.decay, "window": self.window, "rate": recorder.rate, "seed": recorder.seed}
        return {**how, "absorb": recorder.absorb, "dtype": str(recorder.dtype), "layers": shapes}


def _place(concept: Any) -> int:
    return -1 if concept is None else concept
