"""The ids of an answer in the JSON of a server that wrote it, for `Explainer.explain_ids`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import InputError


def answer_ids(response: Mapping[str, Any], choice: int = 0) -> list[int]:
    """The answer's ids, the end token included where the server counts it.

    Args:
        response: JSON of vLLM's OpenAI interface (``choices[i].token_ids``), asked with ``"return_token_ids": true``,
            or of SGLang's ``/generate`` (``output_ids``).
        choice: which answer, where vLLM wrote several.

    Returns:
        T ids.

    Raises:
        InputError: there are none in it, or no such choice.
    """
    found = response.get("output_ids")
    if found is None:
        choices = response.get("choices") or ()
        if not 0 <= choice < max(1, len(choices)):
            raise InputError(f"choice: expected an index below {len(choices)}; got {choice}")
        found = choices[choice].get("token_ids") if choices else None
    if not found or not all(isinstance(one, int) and not isinstance(one, bool) for one in found):
        raise InputError(
            "response: expected choices[].token_ids (vLLM, asked with return_token_ids=true) or output_ids (SGLang's "
            f"/generate); got {', '.join(map(str, response)) or 'nothing'}. Without ids, explain(answer=text) "
            "tokenises the text again"
        )
    return list(found)
