"""Image patches, and their second moments without making the patches.

For stride 1, the block of Σ that pairs kernel offset a with kernel offset b is Σ_p x(p + a) x(p + b)ᵀ: a correlation
of the image with itself, shifted by b − a. Offsets with the same difference share it, up to strips at the border. So a
3 × 3 kernel needs 13 correlations of C × C where the patches need 45 products.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def worth_it(
    channels: int, images: int, outputs: tuple[int, ...], kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> bool:
    """Whether the correlations are faster (measured): products wide enough, an inside larger than its border, and so
    many patches that it matters little that the correlations write Σ several times over."""
    reach = [(k - 1) * step for k, step in zip(kernel, dilation, strict=True)]
    inside = max(reach) > 0 and all(o >= 2 * r for o, r in zip(outputs, reach, strict=True))
    return inside and channels >= 32 and images * outputs[0] * outputs[1] >= max(1024, 2**17 // channels)


def patches(x: Tensor, kernel: tuple[int, ...], dilation: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The patches of padded images, (d, n, positions): what unfold gives, with the patches side by side.

    That layout is one copy of a strided view, and a product reads it as it is.
    """
    (n, c, height, width), (kh, kw), (dh, dw), (sh, sw) = x.shape, kernel, dilation, stride
    out_h, out_w = (height - (kh - 1) * dh - 1) // sh + 1, (width - (kw - 1) * dw - 1) // sw + 1
    image, channel, down, right = x.stride()
    steps = (channel, down * dh, right * dw, image, down * sh, right * sw)
    view = x.as_strided((c, kh, kw, n, out_h, out_w), steps)
    return view.contiguous().view(c * kh * kw, n, out_h * out_w)


def patch_moments(x: Tensor, kernel: tuple[int, ...], dilation: tuple[int, ...], ones: bool) -> Tensor:
    """Σ over all patches of ``x``, exactly what unfolding and multiplying gives, for stride 1.

    Args:
        x: padded images, shape (n, channels, height, width), in the precision wanted.
        kernel, dilation: as in ``torch.nn.Conv2d``.
        ones: append a constant 1 to every patch.

    Returns:
        (d, d), d = channels · kernel height · kernel width (+ 1), in unfold's order of rows.

    Cost: a product (C × n·h·w)(n·h·w × C) for half of the differences of kernel offsets, 13 at 3 × 3, where the patches
    take one for half of their pairs, 45. One copy of ``x``, no patches.
    """
    (n, c, height, width), (kh, kw), (dh, dw) = x.shape, kernel, dilation
    out_h, out_w = height - (kh - 1) * dh, width - (kw - 1) * dw
    x = x.permute(0, 2, 3, 1).contiguous()  # channels last: every piece below is rows of length C
    blocks = x.new_zeros(kh, kw, kh, kw, c, c)
    for di in range(kh):
        rows = range(kh - di)
        for dj in range(-(kw - 1) if di else 0, kw):  # half of the differences; the rest is the transpose
            columns = range(max(0, -dj), kw - max(0, dj))
            for top, bottom in _pieces((i * dh for i in rows), out_h):
                for left, right in _pieces((j * dw for j in columns), out_w):
                    here = x[:, top:bottom, left:right]
                    there = x[:, top + di * dh : bottom + di * dh, left + dj * dw : right + dj * dw]
                    product = here.reshape(-1, c).T @ there.reshape(-1, c)
                    for i in rows:
                        if i * dh <= top and bottom <= i * dh + out_h:
                            for j in columns:
                                if j * dw <= left and right <= j * dw + out_w:
                                    blocks[i, j, i + di, j + dj] += product
    k = kh * kw
    blocks = blocks.view(k, k, c, c)
    for a in range(k):
        for b in range(a):
            blocks[a, b] = blocks[b, a].T
    sigma = blocks.permute(2, 0, 3, 1).reshape(c * k, c * k)
    if not ones:
        return sigma
    image = x.sum(0)  # the column of the constant 1: every window's sum
    windows = [
        image[i * dh : i * dh + out_h, j * dw : j * dw + out_w].sum((0, 1)) for i in range(kh) for j in range(kw)
    ]
    column = torch.stack(windows, 1).reshape(-1, 1)
    count = column.new_full((1, 1), n * out_h * out_w)
    return torch.cat([torch.cat([sigma, column], 1), torch.cat([column.T, count], 1)])


def _pieces(starts: Iterable[int], length: int) -> list[tuple[int, int]]:
    """The intervals that the windows [start, start + length) cut each other into."""
    marks = sorted({mark for start in starts for mark in (start, start + length)})
    return list(zip(marks[:-1], marks[1:], strict=True))
