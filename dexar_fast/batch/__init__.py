"""Data-set runs: many answers from a table into Parquet, resumed after any interruption.

Import from here: `run` makes a folder of results, `open` reads it. `runs` does the explaining.
"""

from .results import Results
from .results import open_results as open
from .runner import Summary, run

__all__ = ["Results", "Summary", "open", "run"]
