"""Many runs, or one over time: batches, live answers, alternatives, profiles, and estimates before a run.

Import from the files; they know `engine` and `methods`.
"""
