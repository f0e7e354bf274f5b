// W rows at a time, in GCC's vector extension: one source that the compiler turns into AVX-512, AVX2, SSE or NEON.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define DEXAR_INLINE inline __attribute__((always_inline))

namespace dexar {

constexpr float INF = std::numeric_limits<float>::infinity();

template <int W>
struct Lanes {
    typedef float Float __attribute__((vector_size(4 * W)));
    typedef int32_t Int __attribute__((vector_size(4 * W)));

    static DEXAR_INLINE Float load(const float* from) {
        Float x;
        std::memcpy(&x, from, sizeof x);
        return x;
    }
    static DEXAR_INLINE void store(float* to, Float x) { std::memcpy(to, &x, sizeof x); }
    static DEXAR_INLINE Float fill(float x) { return x - Float{}; }
    static DEXAR_INLINE Float select(Int mask, Float yes, Float no) { return mask ? yes : no; }

    // NaN goes through all of these, whichever side it comes from.
    static DEXAR_INLINE Float max(Float kept, Float x) { return select((x > kept) | (x != x), x, kept); }
    static DEXAR_INLINE Float min(Float kept, Float x) { return select((x < kept) | (x != x), x, kept); }
    static DEXAR_INLINE Float relu(Float x) { return select(x < Float{}, Float{}, x); }

    // Halves are added, so that the order does not depend on the instruction set.
    static DEXAR_INLINE float sum(Float x) {
        float parts[W];
        std::memcpy(parts, &x, sizeof x);
        for (int width = W / 2; width; width /= 2)
            for (int i = 0; i < width; ++i) parts[i] += parts[i + width];
        return parts[0];
    }

    // e^x within 2 units in the last place; zero below the smallest normal number, infinite from e^88 on.
    // x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor polynomial of degree 7 (remainder 6e-9), 2^n by its exponent bits.
    static DEXAR_INLINE Float exp(Float x) {
        const Float lowest = fill(-87.0f);
        const Float highest = fill(88.0f);
        const Float clamped = select(x < lowest, lowest, select(x > highest, highest, x));
        const Float shifter = fill(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
        const Float shifted = clamped * 1.44269504f + shifter;
        const Float n = shifted - shifter;
        const Float r = (clamped - n * 0.693359375f) - n * -2.12194440e-4f;  // ln 2 in two parts
        Float e = fill(1.0f / 5040.0f);
        e = e * r + 1.0f / 720.0f;
        e = e * r + 1.0f / 120.0f;
        e = e * r + 1.0f / 24.0f;
        e = e * r + 1.0f / 6.0f;
        e = e * r + 0.5f;
        e = e * r + 1.0f;
        e = e * r + 1.0f;
        Int bits;
        std::memcpy(&bits, &shifted, sizeof bits);
        bits = (bits + 127) << 23;  // the shifter's own low bits are zero
        Float power;
        std::memcpy(&power, &bits, sizeof power);
        return select(x < lowest, Float{}, select(x > highest, fill(INF), e * power));
    }

    // Within 4 units in the last place: of small x its Taylor polynomial of degree 9, of others 1 - 2 / (e^2x + 1).
    static DEXAR_INLINE Float tanh(Float x) {
        const Float square = x * x;
        Float small = fill(62.0f / 2835.0f);
        small = small * square - 17.0f / 315.0f;
        small = small * square + 2.0f / 15.0f;
        small = small * square - 1.0f / 3.0f;
        small = small * square * x + x;
        return select((x < 0.25f) & (x > -0.25f), small, 1.0f - 2.0f / (exp(x + x) + 1.0f));
    }
};

}  // namespace dexar
