// The C ABI of the CPU kernels: what dexar_fast/ops/cpp.py hands over. Keep both in step, and count ABI_VERSION up.
#pragma once

#include <cstdint>

namespace dexar {

constexpr int32_t ABI_VERSION = 2;

enum Kind : uint8_t { NEITHER = 0, IMAGE = 1, TEXT = 2 };

// What is read off a key: see dexar_fast/ops/signals.py.
enum Signal : int32_t { GRADIENT = 0, SCORE_GRADIENT = 1, CONTRIBUTION = 2, ATTENTION = 3 };

// H heads and a block of T rows over K keys that follow each other. Products are key-major, (K, T) with T contiguous: a
// key is of one kind for all rows, maxima over keys need no shuffles, and any set of image keys is as fast as a span.
// Shapes are those of one head: products, D and columns of the heads follow each other, what has a stride of head_stride
// is (T, heads) in memory, maps are the sums over all heads. Null pointers mean "not wanted" or, of inputs, "not needed".
struct Block {
    int64_t n_heads;          // H
    int64_t n_rows;           // T
    int64_t n_keys;           // K
    int64_t first_key;        // position of the block's first key
    const float* gradient;    // (K, T): G = V dO^T
    float* logits;            // (K, T): Q K^T, scaled and capped; overwritten with P
    const uint8_t* kinds;     // (K): Kind of each key
    const int64_t* visible;   // (T, 2): row t sees positions visible[t, 0] <= j < visible[t, 1]
    const float* d_dot_out;   // (T): D = <dO, o>
    float* lse;               // (T), stride head_stride: log-sum-exp of the visible logits, written if lse_is_known == 0
    float* image;             // (T), stride head_stride: S_img, and so on; null: weights are given
    float* text;
    float* image_min;
    const float* weights;     // (T), stride head_stride; null: relu(S_img - S_text)
    float* maps;              // (N, T): += w * relu(signal) for the N image keys of the block
    float* unfiltered;        // (N, T): += relu(signal)
    float* columns;           // (N, T): P of the image keys
    int64_t head_stride;
    int64_t n_image_keys;     // N
    int32_t lse_is_known;
    int32_t score_signal;     // Signal
    int32_t map_signal;

    // The same for one of the heads.
    Block of_head(int64_t head) const {
        Block one = *this;
        const int64_t product = head * n_keys * n_rows;
        if (gradient) one.gradient += product;
        if (logits) one.logits += product;
        if (d_dot_out) one.d_dot_out += head * n_rows;
        if (lse) one.lse += head;
        if (image) one.image += head, one.text += head, one.image_min += head;
        if (weights) one.weights += head;
        if (columns) one.columns += head * n_image_keys * n_rows;
        return one;
    }
};

}  // namespace dexar
