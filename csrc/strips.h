// Products of many rows: a strip is 16 rows side by side. Some keys are multiplied with some strips at once, so many that
// their sums fill the registers; rows lie packed in cache, keys are read as they lie.
#pragma once

#include "numbers.h"

namespace dexar {

// Some rows of one head as float32: (strips, D, STRIP), zero behind the last row.
template <Dtype dtype, int W>
DEXAR_INLINE void pack_strips(const Factors& factors, int64_t head, int64_t first_row, int64_t last_row, float* packed) {
    using N = Numbers<dtype, W>;
    const int64_t depth = factors.depth, end = first_row + (last_row - first_row + STRIP - 1) / STRIP * STRIP;
    for (int64_t row = first_row; row < end; ++row) {
        float* to = packed + (row - first_row) / STRIP * STRIP * depth + (row - first_row) % STRIP;
        if (row >= last_row) {
            for (int64_t d = 0; d < depth; ++d) to[d * STRIP] = 0;
            continue;
        }
        const int64_t offset = row * factors.row_stride + head * factors.row_head_stride;
        const auto* from = static_cast<const typename N::Stored*>(factors.rows) + offset;
        float some[W];
        for (int64_t d = 0; d < depth; d += W) {
            const int64_t count = depth - d < W ? depth - d : W;
            __builtin_prefetch(from + 4 * factors.row_stride + d);
            N::L::store(some, count == W ? N::load(from + d) : N::load(from + d, count));
            for (int64_t i = 0; i < count; ++i) to[(d + i) * STRIP] = some[i];
        }
    }
}

// KEYS keys times STRIPS strips: out[s][k] = scale * sum over d of keys[k][d] packed[s][d], STRIP rows each.
template <int W, int KEYS, int STRIPS>
DEXAR_INLINE void multiply_strips(
    const float* keys, int64_t key_stride, const float* packed, int64_t depth, float scale, float* out, int64_t strip_stride) {
    using L = Lanes<W>;
    constexpr int PARTS = STRIP / W, N = STRIPS * PARTS;
    typename L::Float total[KEYS][N] = {};
    for (int64_t d = 0; d < depth; ++d) {
        typename L::Float rows[N];
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n) rows[n] = L::load(packed + n / PARTS * depth * STRIP + d * STRIP + n % PARTS * W);
#pragma GCC unroll 8
        for (int k = 0; k < KEYS; ++k) {
            const float key = keys[k * key_stride + d];
#pragma GCC unroll 8
            for (int n = 0; n < N; ++n) total[k][n] += rows[n] * key;
        }
    }
#pragma GCC unroll 8
    for (int k = 0; k < KEYS; ++k)
#pragma GCC unroll 8
        for (int n = 0; n < N; ++n)
            L::store(out + n / PARTS * strip_stride + k * STRIP + n % PARTS * W, scale * total[k][n]);
}

// All strips of a task, as many at once as there are registers for.
template <int W, int KEYS>
DEXAR_INLINE void multiply_all_strips(
    const float* keys, int64_t key_stride, const float* packed, int64_t n_strips, int64_t depth, float scale, float* out,
    int64_t strip_stride) {
    const auto multiply = [&](auto strips) DEXAR_INLINED {
        multiply_strips<W, KEYS, strips()>(keys, key_stride, packed, depth, scale, out, strip_stride);
        packed += strips() * depth * STRIP;
        out += strips() * strip_stride;
        n_strips -= strips();
    };
    if constexpr (W == STRIP) {
        while (n_strips >= 4) multiply(std::integral_constant<int, 4>());
        if (n_strips == 3) return multiply(std::integral_constant<int, 3>());
        if (n_strips == 2) return multiply(std::integral_constant<int, 2>());
    }
    while (n_strips > 0) multiply(std::integral_constant<int, 1>());
}

// Keys first <= j < last times packed strips of a head, into (strips, K, STRIP). `wide` is room for STRIP keys.
template <Dtype dtype, int W, int KEYS>
DEXAR_INLINE void multiply_head(
    const Factors& factors, int64_t key_head, int64_t first, int64_t last, const float* packed, int64_t n_strips, float* wide,
    float* out, int64_t n_keys) {
    static_assert(KEYS <= STRIP, "room");
    using N = Numbers<dtype, W>;
    const int64_t depth = factors.depth;
    const auto* head = static_cast<const typename N::Stored*>(factors.keys) + key_head * factors.head_stride;
    const auto multiply = [&](auto count, int64_t j) DEXAR_INLINED {
        for (int k = 0; k < count(); ++k)
            for (int64_t d = 0; d < depth; d += W) __builtin_prefetch(head + (j + count() + k) * factors.key_stride + d);
        const float* keys;
        int64_t stride;
        if constexpr (dtype == FLOAT32) {
            keys = head + j * factors.key_stride;
            stride = factors.key_stride;
        } else {
            keys = wide;
            stride = depth;
            for (int k = 0; k < count(); ++k) N::widen(head + (j + k) * factors.key_stride, depth, wide + k * depth);
        }
        multiply_all_strips<W, count()>(keys, stride, packed, n_strips, depth, factors.scale, out + j * STRIP, n_keys * STRIP);
    };
    int64_t j = first;
    if (last - first >= KEYS) {
        // The last tile begins earlier, and makes some products twice.
        for (; j < last; j += KEYS) multiply(std::integral_constant<int, KEYS>(), j + KEYS <= last ? j : last - KEYS);
    }
    for (; j < last; ++j) multiply(std::integral_constant<int, 1>(), j);
}

}  // namespace dexar
