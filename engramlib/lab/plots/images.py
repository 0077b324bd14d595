"""Images in a row or a grid."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

GAP, LINE = 0.04, 0.2  # inches: between images, and for a line of text


def image_grid(
    images,
    *,
    titles: Sequence[str] | None = None,
    rows: Sequence[str] | None = None,
    columns: int = 10,
    size: float = 0.48,
    cmap: str = "gray",
) -> Figure:
    """A grid of small images. `images`: N x H x W, N x 1 x H x W or N x 3 x H x W in [0, 1]; `size` in inches.

    `titles` = a short text over each image, or as many as there are columns: then over the first row only. `rows` = a
    text to the left of each row. Give the result to `show`. One pair of axes holds all images: a grid with axes of
    their own for sixty takes a second to draw.
    """
    import numpy as np
    from matplotlib import pyplot as plt

    pixels = np.asarray(images, dtype=float)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or len(pixels) == 0:
        raise ValueError(f"image_grid: images must be N x H x W or N x 1|3 x H x W, got {pixels.shape}.")
    columns = min(columns, len(pixels))
    n_rows = -(-len(pixels) // columns)
    if titles is not None and len(titles) not in (len(pixels), columns):
        raise ValueError(f"image_grid: {len(pixels)} images in {columns} columns, but {len(titles)} titles.")
    if rows is not None and len(rows) != n_rows:
        raise ValueError(f"image_grid: {n_rows} rows but {len(rows)} names for them.")

    heads = titles or []
    starts = range(0, len(pixels), columns)
    lines = [t.count("\n") + 1 if t else 0 for t in heads]
    heights = [LINE * max(lines[i : i + columns], default=0) for i in starts]
    left = 0.085 * max(len(name) for name in rows) + 0.08 if rows else 0.0
    width, height = left + columns * (size + GAP), n_rows * (size + GAP) + sum(heights)
    fig = plt.figure(figsize=(width, height), layout="none")
    ax = fig.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))  # in inches
    ax.axis("off")
    top = 0.0
    for row, start in enumerate(starts):
        top += heights[row]
        if rows:
            ax.text(left - 0.08, top + size / 2, rows[row], ha="right", va="center", fontsize=10)
        for i in range(start, min(start + columns, len(pixels))):
            x, image = left + (i - start) * (size + GAP) + GAP / 2, pixels[i]
            shown = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
            ax.imshow(shown, cmap=cmap, vmin=0, vmax=1, extent=(x, x + size, top + size, top), aspect="auto")
            if i < len(heads):
                ax.text(x + size / 2, top - 0.03, heads[i], ha="center", va="bottom", fontsize=10)
        top += size + GAP
    ax.set(xlim=(0, width), ylim=(height, 0))  # imshow moves them
    return fig
