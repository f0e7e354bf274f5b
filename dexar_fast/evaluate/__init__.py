"""Is the explanation true? Metrics, comparison methods, chance lines, sanity checks.

The way of the data: `data` (samples with truth) → `run` (explain by every of the `methods`, `scoring` by `metrics`,
`perturbation`) → `records` (Parquet) → `summary` (means with intervals) → `report` (`tables`, `figures`, `pictures`).
Import `write_evaluation` from here and all else from the files; they know `explainer` and what is below it.
"""

from .write import write_evaluation

__all__ = ["write_evaluation"]
