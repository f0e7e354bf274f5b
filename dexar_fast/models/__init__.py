"""What is known of models: their families, where their layers lie, how they are loaded and left as they were.

What a declaration of your own needs can be imported from here; everything else from the files, which know `layout`.
"""

from .families.fixed_grid import fixed_grid
from .families.grid_thw import grid_thw
from .family import Family, Prompt
from .modules import ModuleParts, projections
from .registry import register_family

__all__ = ["Family", "ModuleParts", "Prompt", "fixed_grid", "grid_thw", "projections", "register_family"]
