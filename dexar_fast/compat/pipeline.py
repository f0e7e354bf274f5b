"""An ``image-text-to-text`` pipeline of transformers that also says why: same call, same keys, and one more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..explainer import Explainer


class ExplainingPipeline:
    """Called as the pipeline of transformers is; each result also has its ``explanation``.

    Args:
        pipe: ``transformers.pipeline("image-text-to-text", ...)``, or an `Explainer`.
        options: of `Explainer.explain`, for every call.
    """

    def __init__(self, pipe: Any, **options: Any) -> None:
        self.explainer = pipe if isinstance(pipe, Explainer) else Explainer(pipe)
        self.options = options

    def __call__(
        self,
        images: Any = None,
        text: str | Sequence[Mapping[str, Any]] | None = None,
        *,
        generate_kwargs: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """Let the model answer, greedily, and explain.

        Args:
            images: a picture, or a list of them for one prompt.
            text: the prompt, or a chat as a list of messages.
            generate_kwargs: ``max_new_tokens`` alone.
            options: of `Explainer.explain`, ``max_new_tokens`` among them.

        Returns:
            A list of one dict: ``input_text``, ``generated_text`` and ``explanation``.

        Raises:
            InputError: as `Explainer.explain`.
        """
        asked: dict[str, Any] = {"prompt": text} if isinstance(text, str) else {"messages": text}
        e = self.explainer.explain(images, **asked, **self.options, **(generate_kwargs or {}), **options)
        return [{"input_text": text, "generated_text": e.answer, "explanation": e}]
