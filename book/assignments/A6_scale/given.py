# ruff: noqa: F821 (hidden.py stands above it)
# What the notebook gives, made anew: the hidden checks do not read it from the notebook, where it may have changed.


def learnt(seed):
    """Data and network of a seed."""
    from engramlib.lab import data as datasets
    from engramlib.lab import models, training

    data = datasets.digits(seed=seed).flat()
    model = models.mlp([64, 48, 48, 10], seed=seed)
    training.train_classifier(model, data, epochs=30, lr=2e-3, batch_size=64, seed=seed, validate=False, progress=False)
    return data, model


def shrunk(rows, rank):
    """What `shrink` gives."""
    import torch

    if len(rows) <= rank:
        return rows, 0.0
    _, s, v = torch.linalg.svd(rows, full_matrices=False)
    delta = float(s[rank] ** 2) if len(s) > rank else 0.0
    taken = 0.0 if SHARED.get("truncate") else delta  # a variant subtracts nothing
    return (s[:rank] ** 2 - taken).clamp_min(0.0).sqrt()[:, None] * v[:rank], delta


def streamed(x, rank, batch):
    """What `sketch` gives."""
    import torch

    rows, total = x[:0], 0.0
    for piece in x.split(batch):
        rows, delta = shrunk(torch.cat([rows, piece]), rank)
        total += delta
    return rows, total


def erased(model, data, digit, way, part=0.1):
    """The network without a digit, from all of Σ or from a sketch of it."""
    import torch

    import engramlib as el

    own = data.train.y == digit
    found, x = {}, data.train.x
    with torch.no_grad():
        for name, module in model.named_children():
            if name.startswith("fc"):
                columns = torch.cat([x, torch.ones(len(x), 1)], 1).double()
                both = []
                for mask in (own, ~own):
                    mine = columns[mask]
                    sigma = mine.T @ mine
                    if way == "sketch":
                        rows, _ = streamed(mine, int(mine.shape[1] * part), 64)
                        kept = rows.T @ rows
                        sigma = kept + torch.diag((sigma - kept).diag())
                    both.append(sigma.float().double())
                inverse = torch.linalg.pinv((both[0] + both[1]).float().double(), rtol=1e-3, hermitian=True)
                weight = torch.cat([module.weight, module.bias[:, None]], 1).double() @ both[0] @ inverse
                found[name] = weight[:, :-1].float(), weight[:, -1].float()
            x = module(x)
    return el.ablate(model, el.Engram(found))


def measured(network, split, digit):
    """(left, kept) on a split."""
    import torch

    with torch.no_grad():
        shape, values = floats(network(split.x))
    rows = [values[k * shape[1] : (k + 1) * shape[1]] for k in range(shape[0])]
    right = [max(range(10), key=row.__getitem__) == int(y) for row, y in zip(rows, floats(split.y)[1], strict=True)]
    own = [int(y) == digit for y in floats(split.y)[1]]
    left = [r for r, mine in zip(right, own, strict=True) if mine]
    kept = [r for r, mine in zip(right, own, strict=True) if not mine]
    return sum(left) / len(left), sum(kept) / len(kept)
