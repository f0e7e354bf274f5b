// The C ABI of the CPU kernels: what dexar_fast/ops/cpp_library.py describes. Keep both in step, and count ABI_VERSION up.
#pragma once

#include <cstdint>

namespace dexar {

constexpr int32_t ABI_VERSION = 5;
constexpr int WIDTH = 8;  // lanes that are computed at once; panels are padded to a multiple of it

enum Kind : uint8_t { NEITHER = 0, IMAGE = 1, TEXT = 2 };

// What is read off a key: see dexar_fast/ops/signals.py.
enum Signal : int32_t { GRADIENT = 0, SCORE_GRADIENT = 1, CONTRIBUTION = 2, ATTENTION = 3 };
constexpr int N_SIGNALS = 4;

enum Dtype : int32_t { FLOAT32 = 0, BFLOAT16 = 1, FLOAT16 = 2 };

// Head scores of one signal, each (T, H); null: not wanted.
struct Scores {
    float* image;
    float* text;
    float* image_min;
};

// A tensor of the caller's, of any strides. Null: not wanted.
struct Matrix {
    float* data;
    int64_t row_stride, column_stride;

    float& at(int64_t row, int64_t column) const { return data[row * row_stride + column * column_stride]; }
};

// What one pair of signals adds up: see MapSums of dexar_fast/ops/signals.py. Null: not wanted.
struct Sums {
    const float* weights;  // (T, H); null: relu(S_img - S_text) of score_signal
    // Where lanes are rows, whose maps the caller adds up: (n_chunks, N, lanes).
    float* panels;             // += w * relu(map_signal)
    float* unfiltered_panels;  // += relu(map_signal)
    // Where lanes are heads: (T, N).
    Matrix maps;          // += w * relu(map_signal), summed over the heads
    Matrix unfiltered;    // += relu(map_signal), summed over the heads
    float* lane_weights;  // (T, lanes): room for w
    Matrix token_sums;    // (H, N): += relu(map_signal), summed over the rows
    int32_t score_signal;
    int32_t map_signal;
};

// A product of rows and keys that is made here, for few rows. Where `rows` is null it is made by BLAS, or not needed.
struct Factors {
    const float* rows;  // (T, H, depth)
    const void* keys;   // (H_kv, K, depth) of `dtype`, from the block's first key on; the last stride is 1
    int64_t head_stride, key_stride, depth;
    int32_t dtype;
    float scale;
};

// Rows t and heads i over K keys that follow each other. Products lie in panels of K x lanes, key-major: a key is of one
// kind for all lanes, maxima over keys need no shuffles, and any set of image keys is as fast as a span. Of many rows a
// panel is a head and its lanes are rows; of few rows a panel is a row and its lanes are heads. Lanes are padded to a
// multiple of WIDTH. What is (T, H) lies so in memory in both cases.
struct Block {
    int64_t n_rows, n_heads;     // T, H, those of this call alone
    int64_t n_keys;              // K
    int64_t first_key;           // position of the first of them
    int64_t n_image_keys;        // N
    int64_t head_stride;         // between rows of what is (T, H): heads of the whole layer
    int64_t members;             // panels side by side: number p lies at (p / members) K members lanes + (p % members) lanes
    int64_t n_chunks;            // of the heads, where lanes are rows: each chunk has maps of its own
    int64_t n_key_heads;         // of Factors
    const float* gradient;       // panels of G = V dO^T; null: not needed
    float* logits;               // panels of scale * K Q^T; overwritten with P
    const uint8_t* kinds;        // (K): Kind of each key
    const int64_t* image_keys;   // (N): which of the keys are image keys
    const int64_t* visible;      // (T, 2): row t sees positions visible[t, 0] <= j < visible[t, 1]
    const float* d_dot_out;      // (T, H): D = <dO, o>
    float* lse;                  // (T, H): log-sum-exp of the visible logits, written if lse_is_known == 0
    float* columns;              // P of the image keys: (T, head_stride, column_stride)
    int64_t column_stride;
    Scores scores[N_SIGNALS];
    const Sums* sums;
    int64_t n_sums;
    Factors value;               // of the gradient
    Factors key;                 // of the logits
    float softcap;               // 0: none
    int32_t lse_is_known;
    int32_t heads_are_lanes;

    int64_t n_panels() const { return heads_are_lanes ? n_rows : n_heads; }
    int64_t n_lanes() const { return heads_are_lanes ? n_heads : n_rows; }
    int64_t padded() const { return (n_lanes() + WIDTH - 1) / WIDTH * WIDTH; }
    int64_t key_stride() const { return members * padded(); }
    int64_t panel(int64_t p) const { return p / members * n_keys * key_stride() + p % members * padded(); }
    int64_t of_row_and_head(int64_t panel, int64_t lane) const {
        return heads_are_lanes ? panel * head_stride + lane : lane * head_stride + panel;
    }
};

}  // namespace dexar
