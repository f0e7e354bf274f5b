"""Is a loaded model what its family says? One token of a small picture, with every layer checked."""

from __future__ import annotations

from dataclasses import replace

from ..engine.engine import Engine
from ..models.report import ModelReport, probe_image
from ..models.state import main_device


def self_test(engine: Engine) -> ModelReport:
    """See `Explainer.self_test`."""
    prompt = "a" if engine.processor is None else engine.prompt_encoder.probe()
    options = engine.options(method="dexar")
    with engine.running():
        encoded = engine.encoded([probe_image()], prompt, "a", options)
        engine.checked_layers.clear()
        request, sums = engine.run(replace(encoded, answer_ids=encoded.answer_ids[:1]), options)
        engine.checked_layers.clear()  # the first real prompt is longer, and checked too
    grids = request.layout.grids
    return ModelReport(
        model=engine.model_name,
        model_class=type(engine.model).__name__,
        family=engine.family.name,
        layers=len(engine.decoder.layers),
        explained_layers=options.layers,
        heads=sums.image_scores.shape[2],
        keys=engine.family.keys,
        image_tokens=len(request.image_keys),
        grid=(grids[0].rows, grids[0].cols) if grids else None,
        gradient_path=engine.family.gradient_path,
        attention=engine.decoder.attention_implementation,
        dtype=str(engine.model.dtype).removeprefix("torch."),
        device=str(main_device(engine.model)),
    )
