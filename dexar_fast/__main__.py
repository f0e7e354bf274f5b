"""`python -m dexar_fast` is the command `dexar-fast`."""

from .cli import main

main()
