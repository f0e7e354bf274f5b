"""How many answer rows run at once: enough for fast products, few enough for the memory that is free."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import torch

from .errors import InputError
from .model_state import main_device

if TYPE_CHECKING:
    from .models import Decoder

MOST_ROWS = 512  # more make the products no faster, only the memory larger
FEWEST_ROWS = 16


def check_row_chunk(row_chunk: int | str) -> None:
    """Refuse what is neither a number of rows nor "auto".

    Raises:
        InputError: says so.
    """
    if row_chunk == "auto" or (isinstance(row_chunk, int) and not isinstance(row_chunk, bool) and row_chunk > 0):
        return
    raise InputError(f'row_chunk: expected a number of answer tokens from 1 on, or "auto"; got {row_chunk!r}')


def rows_at_once(decoder: Decoder, row_chunk: int | str) -> int:
    """The number of rows that ``row_chunk`` stands for on this model now: "auto" takes a quarter of the free memory."""
    if not isinstance(row_chunk, str):
        return row_chunk
    free = free_memory(main_device(decoder.model))
    if free is None:
        return MOST_ROWS
    return max(FEWEST_ROWS, min(MOST_ROWS, free // (4 * bytes_per_row(decoder))))


def bytes_per_row(decoder: Decoder) -> int:
    """Bytes that one row's tail of a layer keeps for its backward: the MLP's activations, twice, and the residuals."""
    config: Any = decoder.text_model.config
    width = int(getattr(config, "hidden_size", None) or config.d_model)
    inner = int(getattr(config, "intermediate_size", 0) or getattr(config, "decoder_ffn_dim", 4 * width))
    return (8 * inner + 16 * width) * torch.empty((), dtype=decoder.model.dtype).element_size()


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be had on the device; None where that is not known."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    if device.type == "cpu" and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None
