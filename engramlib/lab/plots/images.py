"""Images in a row or a grid."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure


def image_grid(
    images, *, titles: Sequence[str] | None = None, columns: int = 10, size: float = 0.48, cmap: str = "gray"
) -> Figure:
    """A grid of small images. `images`: N x H x W, N x 1 x H x W or N x 3 x H x W in [0, 1]; `size` in inches.

    `titles` = a short text over each image. Give the result to `show`.
    """
    import numpy as np
    from matplotlib import pyplot as plt

    pixels = np.asarray(images, dtype=float)
    if pixels.ndim == 3:
        pixels = pixels[:, None]
    if pixels.ndim != 4 or pixels.shape[1] not in (1, 3) or len(pixels) == 0:
        raise ValueError(f"image_grid: images must be N x H x W or N x 1|3 x H x W, got {pixels.shape}.")
    if titles is not None and len(titles) != len(pixels):
        raise ValueError(f"image_grid: {len(pixels)} images but {len(titles)} titles.")
    columns = min(columns, len(pixels))
    n_rows = -(-len(pixels) // columns)
    tall = size + (0.24 if titles is not None else 0.04)
    fig, axes = plt.subplots(n_rows, columns, figsize=(columns * (size + 0.04), n_rows * tall), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for i, (ax, image) in enumerate(zip(axes.flat, pixels, strict=False)):
        ax.imshow(image[0] if len(image) == 1 else image.transpose(1, 2, 0), cmap=cmap, vmin=0, vmax=1)
        if titles is not None:
            ax.set_title(titles[i], fontsize=10, pad=2)
    return fig
