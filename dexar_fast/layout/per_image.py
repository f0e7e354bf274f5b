"""What there is one of for each image: the thing itself for one image, a tuple of them for several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def as_tuple(value: Any) -> tuple[Any, ...]:
    """What there is one of for each image, always as a tuple."""
    return value if isinstance(value, tuple) else (value,)


def one_or_tuple(values: Sequence[Any]) -> Any:
    """The inverse of `as_tuple`."""
    return values[0] if len(values) == 1 else tuple(values)
