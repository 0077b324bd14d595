"""What the hidden checks compare with: build.py puts this file into each of their test files.

Plain Python on floats. Nothing here asks torch, numpy or engramlib whether two things are equal, so an answer does not
get better when it has replaced their functions. A tensor becomes floats by the C method of its class, and only if it
still is that.
"""


class Wrong(AssertionError):
    """What a hidden check found wrong."""


def need(right, message):
    """Refuse the answer unless `right`, which has to be a plain True (an object may claim to be anything)."""
    if right is not True:
        raise Wrong(message)


def _lists(x, name):
    """An array or tensor as lists of floats; the class must be the real one."""
    for owner in type.__dict__["__mro__"].__get__(type(x)):
        found = type.__dict__["__dict__"].__get__(owner).get("tolist")
        if found is not None:
            real = type(found) is type(str.join) and found.__objclass__.__name__ in ("TensorBase", "ndarray", "generic")
            if not real:
                break
            return found(x)
    raise Wrong(f"{name} should be a number, a list of numbers, an array or a tensor; it is a {type(x).__name__}.")


def floats(x, name="the answer"):
    """(shape, flat list of floats) of a number, a list, an array or a tensor."""
    kind = type(x)
    if x is None or x is ...:
        raise Wrong(f"{name}: no answer yet.")
    if kind is bool or kind is int or kind is float:
        return (), [float(x)]
    if kind is list or kind is tuple:
        parts = [floats(part, name) for part in x]
        if not parts:
            return (0,), []
        if any(shape != parts[0][0] for shape, _ in parts):
            raise Wrong(f"{name} has rows of different lengths.")
        return (len(parts), *parts[0][0]), [value for _, values in parts for value in values]
    return floats(_lists(x, name), name)


def number(x, name="the answer"):
    """One float; NaN is refused."""
    shape, values = floats(x, name)
    need(len(values) == 1, f"{name} should be one number; it has the shape {shape}.")
    need(values[0] == values[0], f"{name} is NaN, not a number.")
    return values[0]


def same(mine, right, message, rtol=1e-4, atol=1e-6):
    """Every number within rtol of the right one, or within atol; the shapes are equal."""
    (shape, values), (wanted, exact) = floats(mine), floats(right)
    need(shape == wanted, f"{message} Expected shape {wanted}, got {shape}.")
    need(all(v == v for v in values), f"{message} There is NaN in it, not a number.")
    need(all(abs(v - w) <= atol + rtol * abs(w) for v, w in zip(values, exact, strict=True)), message)


def gap(mine, right, name="the answer"):
    """‖mine − right‖ / ‖right‖; infinite where a shape is wrong or a number is none."""
    (shape, values), (wanted, exact) = floats(mine, name), floats(right)
    if shape != wanted or any(v != v for v in values):
        return float("inf")
    size = sum(w * w for w in exact) ** 0.5
    return sum((v - w) * (v - w) for v, w in zip(values, exact, strict=True)) ** 0.5 / (size if size > 0 else 1.0)


def size(x):
    """‖x‖ over all entries."""
    return sum(v * v for v in floats(x)[1]) ** 0.5


def layer(part, name):
    """[weight bias] of one layer of an engram or a network, as rows of floats."""
    found = part[name] if not hasattr(type(part), "named_parameters") else dict(part.named_modules())[name]
    rows = floats(found.weight, f"{name}.weight")
    bias = [] if found.bias is None else floats(found.bias, f"{name}.bias")[1]
    width = rows[0][1]
    return [rows[1][k * width : (k + 1) * width] + bias[k : k + 1] for k in range(rows[0][0])]


def double(x, name="the answer"):
    """The same numbers as a float64 tensor, made from plain floats."""
    import torch

    shape, values = floats(x, name)
    return torch.tensor(values, dtype=torch.float64).reshape(shape)


def calls(function, *arguments):
    """(answer, what the call called): C functions as ("", name), Python's as (file, name)."""
    import sys

    seen = set()

    def note(frame, event, what):
        if event == "call":
            seen.add((frame.f_code.co_filename.replace("\\", "/"), frame.f_code.co_name))
        elif event == "c_call":
            seen.add(("", str(getattr(what, "__name__", ""))))

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        answer = function(*arguments)
    finally:
        sys.setprofile(before)
    return answer, seen
