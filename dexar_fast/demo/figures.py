"""Shares of right answers."""

from collections.abc import Mapping, Sequence

Figures = dict[str, float]
"""Shares in percent, and how many cases they are of (keys that end in "cases")."""


def shares(right: Mapping[str, Sequence[bool]], order: Sequence[str]) -> Figures:
    """The share of each name of the order that has cases."""
    figures: Figures = {}
    for name in order:
        if right[name]:
            figures[name] = round(100 * sum(right[name]) / len(right[name]), 2)
            figures[f"{name} cases"] = len(right[name])
    return figures


def summary(figures: Figures) -> str:
    """One line of all shares."""
    return "  ".join(f"{name} {value:.1f}" for name, value in figures.items() if not name.endswith("cases"))
