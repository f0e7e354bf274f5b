// What happens to one block of products, W rows at a time, while it is in cache:
//
//   softmax      lse = log sum_j exp(l_j),  P_j = exp(l_j - lse)                    over the visible keys
//   scores       S_img = max relu(x_j) over image keys, S_text over text keys, and the smallest relu(x_j) on image keys
//   maps         E_n += relu(S_img - S_text) * relu(x_n)                            over image keys
//
// with x the signal: G, P (G - D), P G or P. Each row is on its own, so threads share nothing.
#pragma once

#include "block.h"
#include "lanes.h"

namespace dexar {

// W rows of a block, from `row` on.
template <int W>
struct Rows {
    using L = Lanes<W>;
    using Float = typename L::Float;
    using Int = typename L::Int;

    const Block& block;
    const int64_t row;
    Int start{}, stop{};               // visible keys of each row, counted from the block's first
    int64_t first, last;               // keys that any row sees: first <= j < last
    int64_t all_first, all_last;       // keys that every row sees
    Float d_dot_out{};

    DEXAR_INLINE Rows(const Block& block, int64_t row) : block(block), row(row) {
        first = all_last = block.n_keys;
        last = all_first = 0;
        for (int i = 0; i < W; ++i) {
            const int64_t from = clip(block.visible[2 * (row + i)]), to = clip(block.visible[2 * (row + i) + 1]);
            start[i] = static_cast<int32_t>(from);
            stop[i] = static_cast<int32_t>(to);
            first = from < first ? from : first;
            last = to > last ? to : last;
            all_first = from > all_first ? from : all_first;
            all_last = to < all_last ? to : all_last;
        }
        if (block.d_dot_out) d_dot_out = L::load(block.d_dot_out + row);
    }

    DEXAR_INLINE int64_t clip(int64_t position) const {
        const int64_t key = position - block.first_key;
        return key < 0 ? 0 : key > block.n_keys ? block.n_keys : key;
    }

    DEXAR_INLINE bool all_see(int64_t key) const { return key >= all_first && key < all_last; }

    // -1 where the row sees the key, 0 elsewhere.
    DEXAR_INLINE Int sees(int64_t key) const {
        const Int j = static_cast<int32_t>(key) - Int{};
        return (j >= start) & (j < stop);
    }

    DEXAR_INLINE int64_t at(int64_t key) const { return key * block.n_rows + row; }

    template <Signal signal>
    DEXAR_INLINE Float of_key(int64_t key) const {
        if constexpr (signal == GRADIENT) return L::load(block.gradient + at(key));
        if constexpr (signal == SCORE_GRADIENT)
            return L::load(block.logits + at(key)) * (L::load(block.gradient + at(key)) - d_dot_out);
        if constexpr (signal == CONTRIBUTION)
            return L::load(block.logits + at(key)) * L::load(block.gradient + at(key));
        return L::load(block.logits + at(key));
    }

    DEXAR_INLINE Float load_strided(const float* from) const {
        Float x{};
        for (int i = 0; i < W; ++i) x[i] = from[(row + i) * block.head_stride];
        return x;
    }

    DEXAR_INLINE void store_strided(float* to, Float x) const {
        for (int i = 0; i < W; ++i) to[(row + i) * block.head_stride] = x[i];
    }

    // Turn logits into probabilities, zero on hidden keys.
    DEXAR_INLINE void softmax() const {
        Float lse{};
        if (block.lse_is_known) {
            lse = load_strided(block.lse);
        } else {
            Float highest = L::fill(-INF), sum{};
            for (int64_t j = first; j < last; ++j) {
                const Float l = L::load(block.logits + at(j));
                highest = L::max(highest, all_see(j) ? l : L::select(sees(j), l, L::fill(-INF)));
            }
            // Of a row that sees nothing every difference below is hidden.
            const Float shift = L::select(highest == L::fill(-INF), Float{}, highest);
            for (int64_t j = first; j < last; ++j) {
                const Float e = L::exp(L::load(block.logits + at(j)) - shift);
                sum += all_see(j) ? e : L::select(sees(j), e, Float{});
            }
            for (int i = 0; i < W; ++i) lse[i] = shift[i] + std::log(sum[i]);
            store_strided(block.lse, lse);
        }
        for (int64_t j = first; j < last; ++j) {
            const Float p = L::exp(L::load(block.logits + at(j)) - lse);
            L::store(block.logits + at(j), all_see(j) ? p : L::select(sees(j), p, Float{}));
        }
    }

    // Write the scores, return the head weights.
    template <Signal signal>
    DEXAR_INLINE Float scores() const {
        // The largest relu(x) is the largest of zero and all x.
        Float image{}, text{}, low = L::fill(INF);
        Int sees_image{};
        for (int64_t j = first; j < last; ++j) {
            const uint8_t kind = block.kinds[j];
            if (kind == NEITHER) continue;
            const Float x = of_key<signal>(j);
            if (all_see(j)) {
                if (kind == TEXT) {
                    text = L::max(text, x);
                } else {
                    image = L::max(image, x);
                    low = L::min(low, x);
                    sees_image = sees_image | -1;
                }
            } else {
                const Int seen = sees(j);
                if (kind == TEXT) {
                    text = L::max(text, L::select(seen, x, Float{}));
                } else {
                    image = L::max(image, L::select(seen, x, Float{}));
                    low = L::min(low, L::select(seen, x, L::fill(INF)));
                    sees_image = sees_image | seen;
                }
            }
        }
        store_strided(block.image, image);
        store_strided(block.text, text);
        store_strided(block.image_min, L::select(sees_image, L::relu(low), Float{}));
        return L::relu(image - text);
    }

    template <Signal signal>
    DEXAR_INLINE void accumulate(Float weights) const {
        int64_t n = 0;
        for (int64_t j = 0; j < last; ++j) {
            if (block.kinds[j] != IMAGE) continue;
            const int64_t to = (n++) * block.n_rows + row;
            if (j < first) continue;
            Float x = L::relu(of_key<signal>(j));
            if (!all_see(j)) x = L::select(sees(j), x, Float{});
            L::store(block.maps + to, L::load(block.maps + to) + weights * x);
            if (block.unfiltered) L::store(block.unfiltered + to, L::load(block.unfiltered + to) + x);
        }
    }

    DEXAR_INLINE void write_columns() const {
        int64_t n = 0;
        for (int64_t j = 0; j < last; ++j) {
            if (block.kinds[j] != IMAGE) continue;
            const int64_t to = (n++) * block.n_rows + row;
            if (j >= first) L::store(block.columns + to, L::load(block.logits + at(j)));
        }
    }

    DEXAR_INLINE Float scores_of(int32_t signal) const {
        switch (signal) {
            case GRADIENT: return scores<GRADIENT>();
            case SCORE_GRADIENT: return scores<SCORE_GRADIENT>();
            case CONTRIBUTION: return scores<CONTRIBUTION>();
            default: return scores<ATTENTION>();
        }
    }

    DEXAR_INLINE void accumulate_of(int32_t signal, Float weights) const {
        switch (signal) {
            case GRADIENT: return accumulate<GRADIENT>(weights);
            case SCORE_GRADIENT: return accumulate<SCORE_GRADIENT>(weights);
            case CONTRIBUTION: return accumulate<CONTRIBUTION>(weights);
            default: return accumulate<ATTENTION>(weights);
        }
    }

    DEXAR_INLINE void run() const {
        if (block.logits) softmax();
        if (block.columns) write_columns();
        Float weights{};
        if (block.image) weights = scores_of(block.score_signal);
        if (!block.maps) return;
        if (block.weights) weights = load_strided(block.weights);
        accumulate_of(block.map_signal, weights);
    }
};

}  // namespace dexar
