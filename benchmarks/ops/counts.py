"""What an op takes at least, however it is done: the floor under its time.

Counted are the multiplications and additions of the products with keys and values, each product once and only for keys
that a row sees, and every input and output moved through memory once. A backend that computes a product twice, as one
that never stores it may have to (for the maximum, then for the weighted sum), cannot reach the floor.
"""

from __future__ import annotations

from dataclasses import dataclass

from .cases import DTYPES, EVERY, SIGNALS_OF_LAYER, Case


@dataclass(frozen=True)
class Counts:
    """Operations of the products, and bytes of inputs and outputs."""

    operations: int
    bytes: int


def count(case: Case) -> Counts:
    """The floor of one case."""
    T, H, H_kv, D, N, K = case.T, case.H, case.H_kv, case.D, case.N, case.K
    all_pairs = T * (K - T) + T * (T + 1) // 2  # row t sees K - T + t + 1 keys
    image_pairs = T * N
    product = 2 * H * D
    element = DTYPES[case.dtype].itemsize
    rows, sums = T * H * D * element, T * H * 4
    keys = {"all": H_kv * K * D * element, "image": H_kv * N * D * element}
    index = 8 * N + K + 16 * T  # image positions, kinds, visible ranges
    match case.op:
        case "attention_lse":
            return Counts(product * all_pairs, rows + keys["all"] + index + sums)
        case "attention_columns":
            return Counts(product * image_pairs, rows + keys["image"] + index + sums + T * H * N * 4)
        case "accumulate_maps":
            # The log-sum-exp is known.
            products = _products(case.signals)
            maps = 2 * T * N * 4
            in_and_out = index + maps + sums + (sums if case.needs_attention else 0)
            return Counts(products * product * image_pairs, _tensors(case, rows, keys["image"]) + in_and_out)
        case "head_scores" | "score_and_accumulate":
            pairs = list(SIGNALS_OF_LAYER.values()) if case.signal == EVERY else [case.signals]
            maps = len(pairs) * 2 * T * N * 4 if case.op == "score_and_accumulate" else 0
            scores = (3 * len({pair[0] for pair in pairs}) + case.needs_attention) * sums
            products = _products(case.signals)
            return Counts(products * product * all_pairs, _tensors(case, rows, keys["all"]) + index + maps + scores)
    raise ValueError(f"op: no counts for {case.op!r}")


def reads_value(signals: tuple[str, ...]) -> bool:
    """Whether ``dO . V`` is needed: by every signal but attention itself."""
    return any(signal != "attention" for signal in signals)


def _products(signals: tuple[str, ...]) -> int:
    """``dO . V`` and ``q . k``, one of them or both."""
    return reads_value(signals) + any(signal != "gradient" for signal in signals)


def _tensors(case: Case, rows: int, keys: int) -> int:
    """Bytes of dO and V, of query and key, and of the attention output, as far as the signals read them."""
    of_value = rows + keys if reads_value(case.signals) else 0
    of_attention = rows + keys if case.needs_attention else 0
    return of_value + of_attention + (rows if "score_gradient" in case.signals else 0)
