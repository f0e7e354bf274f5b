"""Pictures of an explanation: overlays, figures, and the HTML report. Needs numpy and Pillow, never torch.

Import from the files; they know `result` and what is below it.
"""
