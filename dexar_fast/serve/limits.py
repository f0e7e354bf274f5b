"""What one client may ask of a server that others use too."""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..errors import InputError


@dataclass(frozen=True)
class Limits:
    """Attributes:
    queue: requests that may wait for the model; more are told to come again.
    most_bytes: of a request's body.
    most_pixels: of one picture.
    most_images: of one request.
    most_characters: of prompt, messages and answer together.
    most_tokens: of an answer, written or given.
    seconds: from the complete request to its answer, waiting included.
    transfer_seconds: for a client to send its request, and without taking anything of the answer.
    """

    queue: int = 16
    most_bytes: int = 16 << 20
    most_pixels: int = 20_000_000
    most_images: int = 8
    most_characters: int = 20_000
    most_tokens: int = 512
    seconds: float = 120.0
    transfer_seconds: float = 30.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "queue" else 1
            if not value >= least:
                raise InputError(f"{field.name}: expected a number from {least} on; got {value!r}")
