"""Fonts for text of any script in a figure: matplotlib's own first, then those that the machine has."""

from __future__ import annotations

# Matplotlib brings Latin, Greek, Cyrillic, Hebrew and Arabic. It cannot draw fonts of coloured emoji.
_FURTHER = (
    "Noto Sans CJK SC", "Noto Sans CJK TC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans SC", "Noto Sans JP",
    "Source Han Sans SC", "WenQuanYi Zen Hei", "Droid Sans Fallback", "PingFang SC", "Hiragino Sans", "Heiti TC",
    "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "SimHei", "Arial Unicode MS",
    "Noto Sans Thai", "Thonburi", "Leelawadee UI", "Noto Sans Devanagari", "Nirmala UI", "Kohinoor Devanagari",
    "Noto Emoji", "Symbola", "Segoe UI Symbol",
)  # fmt: skip


def font_families() -> list[str]:
    """Families for ``fontfamily=``, in the order in which a character is looked for."""
    from matplotlib import font_manager, rcParams

    installed = set(font_manager.get_font_names())
    return [*rcParams["font.family"], *(name for name in _FURTHER if name in installed)]
