"""What makes an answer the same answer: a hash of all that its explanation depends on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from .rows import Row


def key_of(row: Row, files: Sequence[bytes], settings: Mapping[str, Any]) -> str:
    """SHA-256 of pictures, prompt, answer and settings, in hexadecimal.

    Args:
        row: the question and the answer.
        files: the bytes of its pictures; none where they cannot be read.
        settings: of the run: model, versions, options.
    """
    parts = {
        "images": [hashlib.sha256(data).hexdigest() for data in files],
        "prompt": row.prompt,
        "messages": row.messages,
        "answer": row.answer,
        "answer_ids": row.answer_ids,
        "settings": settings,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def safe_name(row_id: str, occurrence: int = 0) -> str:
    """A file name for an id, which may hold slashes, dots, or anything."""
    return hashlib.sha256(f"{occurrence}:{row_id}".encode()).hexdigest()[:32]


def exact_name(row_id: str, occurrence: int = 0) -> str:
    """Where the file of `Explanation.save` of an answer is, in the folder of results."""
    return f"exact/{safe_name(row_id, occurrence)}.safetensors"
