// Products of few rows, made here: keys stream once, in their own dtype, and each is multiplied with all rows of its heads.
#pragma once

#include "numbers.h"

namespace dexar {

// R rows times J keys: sums[r * J + j] = sum over d of rows[r][d] keys[j][d].
template <Dtype dtype, int W, int R, int J>
DEXAR_INLINE void multiply_tile(
    const float* const* rows, const typename Numbers<dtype, W>::Stored* keys, int64_t key_stride, int64_t depth, float* sums) {
    using L = Lanes<W>;
    using N = Numbers<dtype, W>;
    typename L::Float total[R * J] = {};
    int64_t d = 0;
    for (; d + W <= depth; d += W) {
        typename L::Float of_row[R];
        for (int r = 0; r < R; ++r) of_row[r] = L::load(rows[r] + d);
#pragma GCC unroll 16
        for (int j = 0; j < J; ++j) {
            __builtin_prefetch(keys + (j + J) * key_stride + d);  // the next tile
            const typename L::Float key = N::load(keys + j * key_stride + d);
#pragma GCC unroll 4
            for (int r = 0; r < R; ++r) total[r * J + j] += of_row[r] * key;
        }
    }
    if (d < depth) {
        for (int j = 0; j < J; ++j) {
            const typename L::Float key = N::load(keys + j * key_stride + d, depth - d);
            for (int r = 0; r < R; ++r) total[r * J + j] += Numbers<FLOAT32, W>::load(rows[r] + d, depth - d) * key;
        }
    }
    L::template sums<R * J>(total, sums);
}

// Products of R rows and heads, of one key head, with keys first <= j < last, into panels of rows.
template <Dtype dtype, int W, int R>
DEXAR_INLINE void multiply_rows(
    const Block& block, const Factors& factors, float* out, int64_t key_head, int64_t pair, int64_t first, int64_t last) {
    constexpr int J = W / R;
    const int64_t group = block.n_heads / block.n_key_heads, stride = factors.key_stride;
    const float* rows[R];
    float* to[R];
    for (int r = 0; r < R; ++r) {
        const int64_t row = (pair + r) / group, head = key_head * group + (pair + r) % group;
        rows[r] = static_cast<const float*>(factors.rows) + row * factors.row_stride + head * factors.row_head_stride;
        to[r] = out + row * block.n_keys * block.padded() + head;
    }
    const auto* keys = static_cast<const typename Numbers<dtype, W>::Stored*>(factors.keys) + key_head * factors.head_stride;
    float sums[W];
    int64_t j = first;
    for (; j + J <= last; j += J) {
        multiply_tile<dtype, W, R, J>(rows, keys + j * stride, stride, factors.depth, sums);
        for (int r = 0; r < R; ++r)
            for (int k = 0; k < J; ++k) to[r][(j + k) * block.padded()] = factors.scale * sums[r * J + k];
    }
    for (; j < last; ++j) {
        multiply_tile<dtype, W, R, 1>(rows, keys + j * stride, stride, factors.depth, sums);
        for (int r = 0; r < R; ++r) to[r][j * block.padded()] = factors.scale * sums[r];
    }
}

// Products of all rows and heads of one key head with keys first <= j < last, few enough to stay in cache while rows pass.
template <Dtype dtype, int W>
DEXAR_INLINE void multiply_keys(
    const Block& block, const Factors& factors, float* out, int64_t key_head, int64_t first, int64_t last) {
    const int64_t pairs = block.n_rows * (block.n_heads / block.n_key_heads);
    constexpr int R = W / 4;  // and 4 keys: their sums fit into the registers
    int64_t pair = 0;
    for (; pair + R <= pairs; pair += R) multiply_rows<dtype, W, R>(block, factors, out, key_head, pair, first, last);
    if (pair + 2 <= pairs && R > 2) multiply_rows<dtype, W, 2>(block, factors, out, key_head, pair, first, last), pair += 2;
    for (; pair < pairs; ++pair) multiply_rows<dtype, W, 1>(block, factors, out, key_head, pair, first, last);
}

template <int W>
DEXAR_INLINE void multiply(
    const Block& block, const Factors& factors, float* out, int64_t key_head, int64_t first, int64_t last) {
    with_dtype(factors.dtype, [&](auto of) DEXAR_INLINED {
        multiply_keys<of(), W>(block, factors, out, key_head, first, last);
    });
}

}  // namespace dexar
