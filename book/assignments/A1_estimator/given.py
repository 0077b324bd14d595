# ruff: noqa: F821 (hidden.py stands above it)
# What the notebook gives, made anew: the hidden checks do not read it from the notebook, where it may have changed.


def drawn():
    """The four numbers of Question 1, and how many inputs are used in Question 7."""
    import torch

    draw = torch.Generator().manual_seed(100 + VARIANT)
    first, second, ref = (torch.randperm(5, generator=draw)[:3] + 1).tolist()
    learned = int(torch.randint(4, 9, (1,), generator=draw))
    return first, second, ref, learned, int(torch.randint(3, 6, (1,), generator=draw))


def ten_digits():
    """Data, network and moments of Part 3."""
    import engramlib as el
    from engramlib.lab import data as datasets
    from engramlib.lab import models, training

    data = datasets.digits(seed=VARIANT).flat()
    model = models.mlp([64, 256, 256, 10], seed=VARIANT)
    training.train_classifier(model, data, epochs=20, lr=1e-3, batch_size=64, seed=VARIANT, progress=False)
    return data, model, el.collect_by_concept(model, data.batches("train"), lambda batch: batch[1])


def scored(rcond, images, model, moments):
    """What `scores` gives."""
    import engramlib as el
    from engramlib.lab import training

    own, others = 0.0, 0.0
    for digit, one in el.extract_all(model, moments, rcond=rcond).items():
        right = floats(training.class_accuracy(el.ablate(model, one), images.x, images.y, 10))[1]
        own, others = own + right[digit] / 10, others + (sum(right) - right[digit]) / 90
    return own, others
