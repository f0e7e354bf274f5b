"""What `explain` will cost, before it runs: sizes of the model, rates that are measured now, and both together.

Import from the files; they know `engine` and what is below it.
"""
