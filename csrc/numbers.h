// Numbers of every dtype as float32.
#pragma once

#include "block.h"
#include "lanes.h"

namespace dexar {

// W numbers of a dtype as float32.
template <Dtype dtype, int W>
struct Numbers {
    using L = Lanes<W>;
    using Float = typename L::Float;
    using Stored = typename std::conditional<dtype == FLOAT32, float, uint16_t>::type;
    using Half = typename Vectors<W>::Half;
    using Bits = typename Vectors<W>::Bits;

    static DEXAR_INLINE Float load(const Stored* from) {
        if constexpr (dtype == FLOAT32) {
            return L::load(from);
        } else {
            Half half;
            std::memcpy(&half, from, sizeof half);
            const Bits bits = __builtin_convertvector(half, Bits);
            if constexpr (dtype == BFLOAT16) return as_float(bits << 16);
            // Exponent and fraction where float32 has them, the exponent 112 too low; of infinity and NaN it is the highest.
            const Bits magnitude = (bits & 0x7fff) << 13;
            const Float x = as_float(magnitude) * 0x1p112f;
            Bits value;
            std::memcpy(&value, &x, sizeof value);
            // All ones where the exponent is 31, by the carry into the sign bit.
            const Bits special = 0 - ((magnitude + 0x70800000u) >> 31 & 1);
            return as_float(value | (special & 0x7f800000u) | (bits & 0x8000) << 16);
        }
    }

    // The first `count`, zero behind them.
    static DEXAR_INLINE Float load(const Stored* from, int64_t count) {
        Stored padded[W] = {};
        for (int64_t d = 0; d < count; ++d) padded[d] = from[d];
        return load(padded);
    }

    static DEXAR_INLINE void widen(const Stored* from, int64_t count, float* to) {
        int64_t d = 0;
        for (; d + W <= count; d += W) L::store(to + d, load(from + d));
        if (d == count) return;
        float rest[W];
        L::store(rest, load(from + d, count - d));
        std::memcpy(to + d, rest, (count - d) * sizeof *to);
    }

    static DEXAR_INLINE Float as_float(Bits bits) {
        Float x;
        std::memcpy(&x, &bits, sizeof x);
        return x;
    }
};

// `act` with the dtype as a constant.
template <typename Act>
DEXAR_INLINE void with_dtype(int32_t dtype, Act act) {
    switch (dtype) {
        case FLOAT32: return act(std::integral_constant<Dtype, FLOAT32>());
        case BFLOAT16: return act(std::integral_constant<Dtype, BFLOAT16>());
        default: return act(std::integral_constant<Dtype, FLOAT16>());
    }
}

}  // namespace dexar
