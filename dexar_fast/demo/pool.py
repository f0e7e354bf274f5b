"""Training pictures, drawn by several processes."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Drawn = TypeVar("Drawn")


def drawn(draw: Callable[[int], Drawn], seeds: Sequence[int], workers: int) -> Iterator[Drawn]:
    """`draw` of every seed, in their order, by `workers` processes (0: this one)."""
    if workers == 0:
        yield from map(draw, seeds)
        return
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as processes:
        yield from processes.map(draw, seeds, chunksize=64)
