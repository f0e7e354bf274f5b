// The C ABI of the CPU kernels: what dexar_fast/ops/cpp_library.py describes. Keep both in step, and count ABI_VERSION up.
#pragma once

#include <cstdint>

namespace dexar {

constexpr int32_t ABI_VERSION = 6;
constexpr int WIDTH = 8;   // lanes that are computed at once; panels are padded to a multiple of it
constexpr int STRIP = 16;  // lanes that lie side by side where lanes are rows: a cache line
constexpr int64_t KEYS_OF_MAPS = 64;  // image keys of maps that are added up at once

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
    Matrix maps;           // (T, N): += w * relu(map_signal), summed over the heads
    Matrix unfiltered;     // (T, N): += relu(map_signal), summed over the heads
    Matrix token_sums;     // (H, N): += relu(map_signal), summed over the rows
    // Where lanes are heads.
    float* lane_weights;  // (T, lanes): room for w
    // Where lanes are rows, zero before: what tasks add up, each its own, and then the kernel.
    float* panels;             // (n_chunks, strips, N, STRIP), for maps
    float* unfiltered_panels;  // the same, for unfiltered
    float* row_sums;           // (tasks of a chunk, H, N), for token_sums
    int32_t score_signal;
    int32_t map_signal;
};

// A product of rows and keys. Where `rows` is null it is not needed. Both have a last stride of 1.
struct Factors {
    const void* rows;  // (T, H, depth) of `dtype`; where lanes are heads, float32
    const void* keys;  // (H_kv, K, depth) of `dtype`, from the block's first key on
    int64_t row_stride, row_head_stride;  // of rows
    int64_t head_stride, key_stride;      // of keys
    int64_t depth;
    int32_t dtype;
    float scale;
};

// Rows t and heads i over K keys that follow each other. Products lie in panels of K x lanes, key-major: a key is of one
// kind for all lanes, maxima over keys need no shuffles, and any set of image keys is as fast as a span. Of few rows lanes
// are heads: a panel is a row, with lanes padded to a multiple of WIDTH, and threads share the keys. Of many rows lanes are
// rows: a task is some rows with some heads, one after the other; its products stay in its thread's cache. What is (T, H)
// lies so in memory in both cases.
struct Block {
    int64_t n_rows, n_heads;     // T, H
    int64_t n_keys;              // K
    int64_t first_key;           // position of the first of them
    int64_t n_image_keys;        // N
    int64_t n_chunks;            // of the heads, where lanes are rows: each chunk has maps of its own
    int64_t strips_at_once;      // of a task, where lanes are rows
    int64_t n_key_heads;         // of Factors
    float* gradient;             // room for G = V dO^T: (T, K, lanes), or (threads, strips_at_once, K, STRIP)
    float* logits;               // the same for scale * K Q^T; overwritten with P
    float* packed;               // room for packed rows and keys: (threads, strips_at_once + 1, STRIP, D), the larger D
    const uint8_t* kinds;        // (K): Kind of each key
    const int64_t* image_keys;   // (N): which of the keys are image keys
    const int64_t* visible;      // (T, 2): row t sees positions visible[t, 0] <= j < visible[t, 1]
    const float* d_dot_out;      // (T, H): D = <dO, o>
    float* lse;                  // (T, H): log-sum-exp of the visible logits, written if lse_is_known == 0
    float* columns;              // P of the image keys: (T, H, column_stride)
    int64_t column_stride;
    Scores scores[N_SIGNALS];
    const Sums* sums;
    int64_t n_sums;
    Factors value;               // of the gradient
    Factors key;                 // of the logits
    float softcap;               // 0: none
    int32_t lse_is_known;
    int32_t heads_are_lanes;

    int64_t n_lanes() const { return heads_are_lanes ? n_heads : n_rows; }
    int64_t padded() const { return (n_lanes() + WIDTH - 1) / WIDTH * WIDTH; }
    int64_t n_strips() const { return (n_rows + STRIP - 1) / STRIP; }
    int64_t most_depth() const { return value.depth > key.depth ? value.depth : key.depth; }
    // Visible keys of a row, counted from the first: first_seen <= j < last_seen.
    int64_t first_seen(int64_t row) const { return clip(visible[2 * row]); }
    int64_t last_seen(int64_t row) const { return clip(visible[2 * row + 1]); }
    int64_t clip(int64_t position) const {
        const int64_t j = position - first_key;
        return j < 0 ? 0 : j > n_keys ? n_keys : j;
    }
    int64_t of_row_and_head(int64_t panel, int64_t lane) const {
        return heads_are_lanes ? panel * n_heads + lane : lane * n_heads + panel;
    }
};

}  // namespace dexar
