"""How many answer rows run at once: enough for fast products, few enough for the memory that is free."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from ..models.state import main_device

if TYPE_CHECKING:
    from ..models.decoder import Decoder

MOST_ROWS = 512  # more make the products no faster, only the memory larger
FEWEST_ROWS = 16


def rows_at_once(decoder: Decoder, row_chunk: int | str) -> int:
    """The number of rows that ``row_chunk`` stands for on this model now: "auto" takes a quarter of the free memory."""
    if not isinstance(row_chunk, str):
        return row_chunk
    free = free_memory(main_device(decoder.model))
    if free is None:
        return MOST_ROWS
    return max(FEWEST_ROWS, min(MOST_ROWS, free // (4 * bytes_per_row(decoder))))


def row_chunks(rows: slice, at_once: int, targets: Iterable[tuple[int, int]] = ()) -> list[slice]:
    """The rows in consecutive slices of at most ``at_once``; longer only where a target ``(start, stop)`` is.

    No target is cut: a chunk ends before one that does not fit.
    """
    inside = {row for start, stop in targets for row in range(start + 1, stop)}  # no chunk ends there
    chunks: list[slice] = []
    first = rows.start
    while first < rows.stop:
        wanted = min(first + max(1, at_once), rows.stop)
        shorter = (end for end in range(wanted, first, -1) if end not in inside)
        longer = (end for end in range(wanted, rows.stop + 1) if end not in inside)
        end = next(shorter, None) or next(longer)
        chunks.append(slice(first, end))
        first = end
    return chunks


def bytes_per_row(decoder: Decoder) -> int:
    """Bytes that one row of a layer's tail takes, most of them while its MLP is differentiated.

    Of a gated MLP four activations are kept for the backward, and two gradients of their size are there at once; of the
    width of the residual stream, a dozen. Measured: within 10 % for MLPs that are wider than twice the stream.
    """
    width, inner = widths(decoder)
    return (6 * inner + 12 * width) * torch.empty((), dtype=decoder.model.dtype).element_size()


def widths(decoder: Decoder) -> tuple[int, int]:
    """Of the residual stream, and of the MLP inside."""
    config: Any = decoder.text_model.config
    width = int(getattr(config, "hidden_size", None) or config.d_model)
    return width, int(getattr(config, "intermediate_size", 0) or getattr(config, "decoder_ffn_dim", 4 * width))


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on the device; None where that is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    meminfo = Path("/proc/meminfo")
    if device.type == "cpu" and meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):  # free pages, and those that the file cache would give back
                return 1024 * int(line.split()[1])
    return None
