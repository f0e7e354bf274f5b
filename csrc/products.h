// Products of few rows, made here: keys stream once, in their own dtype, and each is multiplied with all rows of its heads.
#pragma once

#include "block.h"
#include "lanes.h"

namespace dexar {

// WIDTH numbers of a dtype as float32.
template <Dtype dtype>
struct Numbers {
    using L = Lanes<WIDTH>;
    using Float = L::Float;
    using Stored = typename std::conditional<dtype == FLOAT32, float, uint16_t>::type;
    typedef uint16_t Half __attribute__((vector_size(2 * WIDTH)));
    typedef uint32_t Bits __attribute__((vector_size(4 * WIDTH)));

    static DEXAR_INLINE Float load(const Stored* from) {
        if constexpr (dtype == FLOAT32) {
            return L::load(from);
        } else {
            Half half;
            std::memcpy(&half, from, sizeof half);
            Bits bits = __builtin_convertvector(half, Bits);
            if constexpr (dtype == BFLOAT16) return as_float(bits << 16);
            // Exponent and fraction as those of float32, 112 too low; infinity and NaN have the highest exponent of both.
            const Bits magnitude = (bits & 0x7fff) << 13;
            Float x = as_float(magnitude) * 0x1p112f;
            Bits value;
            std::memcpy(&value, &x, sizeof value);
            const Bits is_special = Bits(magnitude >= (0x7c00u << 13));
            value |= (is_special & (magnitude | 0x7f800000)) | ((bits & 0x8000) << 16);
            return as_float(value);
        }
    }

    // The first `count`, zero behind them.
    static DEXAR_INLINE Float load(const Stored* from, int64_t count) {
        Stored padded[WIDTH] = {};
        for (int64_t d = 0; d < count; ++d) padded[d] = from[d];
        return load(padded);
    }

    static DEXAR_INLINE Float as_float(Bits bits) {
        Float x;
        std::memcpy(&x, &bits, sizeof x);
        return x;
    }
};

// R rows times J keys: sums[r][j] = sum over d of rows[r][d] keys[j][d].
template <Dtype dtype, int R, int J>
DEXAR_INLINE void multiply_tile(
    const float* const* rows, const typename Numbers<dtype>::Stored* keys, int64_t key_stride, int64_t depth, float* sums) {
    using L = Lanes<WIDTH>;
    using N = Numbers<dtype>;
    typename L::Float total[R][J] = {};
    int64_t d = 0;
    for (; d + WIDTH <= depth; d += WIDTH) {
        typename L::Float of_row[R];
        for (int r = 0; r < R; ++r) of_row[r] = L::load(rows[r] + d);
        for (int j = 0; j < J; ++j) {
            const typename L::Float key = N::load(keys + j * key_stride + d);
            for (int r = 0; r < R; ++r) total[r][j] += of_row[r] * key;
        }
    }
    if (d < depth) {
        for (int j = 0; j < J; ++j) {
            const typename L::Float key = N::load(keys + j * key_stride + d, depth - d);
            for (int r = 0; r < R; ++r) total[r][j] += Numbers<FLOAT32>::load(rows[r] + d, depth - d) * key;
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < J; ++j) sums[r * J + j] = L::sum(total[r][j]);
}

constexpr int TILE_KEYS = 4, TILE_ROWS = 2;

// Products of all rows and heads of one key head with keys first <= j < last, into panels of rows.
template <Dtype dtype>
DEXAR_INLINE void multiply_keys(
    const Block& block, const Factors& factors, float* out, int64_t key_head, int64_t first, int64_t last) {
    using Stored = typename Numbers<dtype>::Stored;
    const int64_t group = block.n_heads / block.n_key_heads, pairs = block.n_rows * group;
    const Stored* of_head = static_cast<const Stored*>(factors.keys) + key_head * factors.head_stride;
    for (int64_t j = first; j < last; j += TILE_KEYS) {
        const int64_t n_keys = last - j < TILE_KEYS ? last - j : TILE_KEYS;
        const Stored* keys = of_head + j * factors.key_stride;
        for (int64_t pair = 0; pair < pairs; pair += TILE_ROWS) {
            const int n_rows = pairs - pair < TILE_ROWS ? 1 : TILE_ROWS;
            const float* rows[TILE_ROWS];
            float* to[TILE_ROWS];
            for (int r = 0; r < n_rows; ++r) {
                const int64_t row = (pair + r) / group, head = key_head * group + (pair + r) % group;
                rows[r] = factors.rows + (row * block.n_heads + head) * block.depth;
                to[r] = out + block.panel(row) + head;
            }
            float sums[TILE_ROWS * TILE_KEYS];
            const int64_t stride = factors.key_stride, depth = block.depth;
            if (n_keys < TILE_KEYS) {
                for (int64_t k = 0; k < n_keys; ++k)
                    for (int r = 0; r < n_rows; ++r)
                        multiply_tile<dtype, 1, 1>(rows + r, keys + k * stride, stride, depth, sums + r * TILE_KEYS + k);
            } else if (n_rows == TILE_ROWS) {
                multiply_tile<dtype, TILE_ROWS, TILE_KEYS>(rows, keys, stride, depth, sums);
            } else {
                multiply_tile<dtype, 1, TILE_KEYS>(rows, keys, stride, depth, sums);
            }
            for (int r = 0; r < n_rows; ++r)
                for (int64_t k = 0; k < n_keys; ++k)
                    to[r][(j + k) * block.key_stride()] = factors.scale * sums[r * TILE_KEYS + k];
        }
    }
}

DEXAR_INLINE void multiply(
    const Block& block, const Factors& factors, float* out, int64_t key_head, int64_t first, int64_t last) {
    switch (factors.dtype) {
        case FLOAT32: return multiply_keys<FLOAT32>(block, factors, out, key_head, first, last);
        case BFLOAT16: return multiply_keys<BFLOAT16>(block, factors, out, key_head, first, last);
        default: return multiply_keys<FLOAT16>(block, factors, out, key_head, first, last);
    }
}

}  // namespace dexar
