"""What the user asks for: images, prompts, targets, foils, layers and options, each checked before anything runs.

Import from the files; they know `layout` and `models`, and nothing that computes.
"""
