"""One run: from an encoded prompt and answer to scores and maps, exactly, in one pass.

Import from the files; they know `inputs`, `models`, `layout`, `ops` and `result`. `pipeline` is where to begin reading.
"""
