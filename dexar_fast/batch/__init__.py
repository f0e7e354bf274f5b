"""Data-set runs: many answers from a table into Parquet, resumed after any interruption.

Import from here: `run` makes a folder of results, `run_on_ray` on a cluster, `open` reads it. `runs` does the
explaining.
"""

from .on_ray import run_on_ray
from .results import Results
from .results import open_results as open
from .runner import Summary, run

__all__ = ["Results", "Summary", "open", "run", "run_on_ray"]
