# ruff: noqa: F821 (hidden.py stands above it)
# What the notebook gives, made anew: the hidden checks do not read it from the notebook, where it may have changed.


def learn(k):
    """Data and network number k (0 to 2) of this variant."""
    from engramlib.lab import data as datasets
    from engramlib.lab import models, training

    seed = 10 * VARIANT + k
    data = datasets.digits(seed=seed).flat()
    model = models.mlp([64, 256, 256, 10], seed=seed)
    training.train_classifier(model, data, epochs=20, lr=1e-3, batch_size=64, seed=seed, progress=False)
    return data, model


def engrams_of_all(model, data):
    """The ten engrams of Question 1."""
    import engramlib as el

    moments = el.collect_by_concept(model, data.batches("train"), lambda batch: batch[1])
    return el.extract_all(model, moments, rcond=1e-3)


def accuracies(network, split):
    """Accuracy on each digit, as floats."""
    from engramlib.lab import training

    return floats(training.class_accuracy(network, split.x, split.y, 10))[1]


def measured(alpha, split):
    """What `measure` gives."""
    import engramlib as el

    rows = []
    for k in range(3):
        if k not in SHARED:
            data, model = learn(k)
            SHARED[k] = data, model, engrams_of_all(model, data)
        data, model, parts = SHARED[k]
        before = accuracies(model, getattr(data, split))
        for c, part in parts.items():
            right = accuracies(el.ablate(model, part, alpha), getattr(data, split))
            loss = [b - r for b, r in zip(before, right, strict=True)]
            rows.append((right[c], (sum(loss) - loss[c]) / 9))
    return tuple(sum(column) / len(rows) for column in zip(*rows, strict=True))
