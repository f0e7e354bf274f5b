"""What comes out: the `Explanation`, its words and heads, and the file that keeps it.

Import from the files; they know `inputs` and `layout`, and call `render` only when a picture is asked for.
"""
