"""Where image tokens lie on the pixels of the user's image: grids, tiles, and what a processor cut off.

Import from the files; they know no other room.
"""
