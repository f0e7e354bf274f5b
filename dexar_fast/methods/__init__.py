"""What else can be computed for a token, for comparison: attention, gradients, occlusion, and maps that know nothing.

Import from `comparisons`; the files know `engine` and what is below it.
"""
