"""Maps that know nothing of the answer: what every figure must be read against."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

SMOOTHING = 0.1
"""Width of the random map's low-pass filter (standard deviation), as a share of the map's longer side."""
CENTRE_WIDTH = 0.25
"""Standard deviation of the centre map, as a share of each side."""


def uniform_maps(n: int, rows: int, cols: int) -> Tensor:
    """``(n, rows, cols)`` of ones."""
    return torch.ones(n, rows, cols, dtype=torch.float32, device="cpu")


def random_maps(n: int, rows: int, cols: int, seed: int) -> Tensor:
    """``(n, rows, cols)``: white noise behind a Gaussian low-pass filter, a different one each."""
    noise = np.random.default_rng(seed).standard_normal((n, rows, cols))
    down, across = np.fft.fftfreq(rows)[:, None], np.fft.fftfreq(cols)[None, :]
    sigma = SMOOTHING * max(rows, cols)  # in cells
    transfer = np.exp(-2 * (np.pi * sigma) ** 2 * (down**2 + across**2))  # of a Gaussian kernel
    return torch.from_numpy(np.fft.ifft2(np.fft.fft2(noise) * transfer).real).float()


def centre_maps(n: int, rows: int, cols: int) -> Tensor:
    """``(n, rows, cols)``: a Gaussian around the middle."""
    y, x = ((torch.arange(cells, dtype=torch.float32, device="cpu") + 0.5) / cells - 0.5 for cells in (rows, cols))
    bump = torch.exp(-(y[:, None] ** 2 + x[None, :] ** 2) / (2 * CENTRE_WIDTH**2))
    return bump.repeat(n, 1, 1)
