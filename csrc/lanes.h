// W lanes at a time, in GCC's vector extension: one source that the compiler turns into AVX-512, AVX2, SSE or NEON.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#define DEXAR_INLINED __attribute__((always_inline))  // of a lambda: it takes its caller's instruction set
#define DEXAR_INLINE inline DEXAR_INLINED

namespace dexar {

constexpr float INF = std::numeric_limits<float>::infinity();

// Compilers take no size that depends on a template's argument everywhere.
template <int W>
struct Vectors;

#ifdef __clang__
#define DEXAR_PICK(X, Y, ...) __builtin_shufflevector(X, Y, __VA_ARGS__)
#else
#define DEXAR_PICK(X, Y, ...) __builtin_shuffle(X, Y, Int{__VA_ARGS__})
#endif

template <>
struct Vectors<8> {
    typedef float Float __attribute__((vector_size(32)));
    typedef int32_t Int __attribute__((vector_size(32)));
    typedef uint32_t Bits __attribute__((vector_size(32)));
    typedef uint16_t Half __attribute__((vector_size(16)));

    // x[0] + x[1], x[2] + x[3], ..., y[0] + y[1], ...
    static DEXAR_INLINE Float add_neighbours(Float x, Float y) {
        return DEXAR_PICK(x, y, 0, 2, 4, 6, 8, 10, 12, 14) + DEXAR_PICK(x, y, 1, 3, 5, 7, 9, 11, 13, 15);
    }
};

template <>
struct Vectors<16> {
    typedef float Float __attribute__((vector_size(64)));
    typedef int32_t Int __attribute__((vector_size(64)));
    typedef uint32_t Bits __attribute__((vector_size(64)));
    typedef uint16_t Half __attribute__((vector_size(32)));

    static DEXAR_INLINE Float add_neighbours(Float x, Float y) {
        return DEXAR_PICK(x, y, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
               DEXAR_PICK(x, y, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    }
};

template <int W>
struct Lanes {
    using Float = typename Vectors<W>::Float;
    using Int = typename Vectors<W>::Int;

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

    // to[i] = sum of x[i], of N <= W vectors: neighbours are added, of two vectors at a time.
    template <int N>
    static DEXAR_INLINE void sums(const Float* x, float* to) {
        Float all[W] = {};
        for (int i = 0; i < N; ++i) all[i] = x[i];
        for (int n = W; n > 1; n /= 2)
            for (int i = 0; i < n / 2; ++i) all[i] = Vectors<W>::add_neighbours(all[2 * i], all[2 * i + 1]);
        for (int i = 0; i < N; ++i) to[i] = all[0][i];
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
