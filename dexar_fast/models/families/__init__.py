"""The model families, one small declarative entry each; docs/models.md says how to add one.

Import from `dexar_fast.models`; the files know `layout` and the declaration itself, `models.family`.
"""
