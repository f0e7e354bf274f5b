// What happens to one panel of products, WIDTH lanes at a time, while it is in cache:
//
//   softmax      lse = log sum_j exp(l_j),  P_j = exp(l_j - lse)                    over the visible keys
//   scores       S_img = max relu(x_j) over image keys, S_text over text keys, and the smallest x_j on image keys
//   maps         E_n += relu(S_img - S_text) * relu(x_n)                            over image keys
//   token sums   m_n += relu(x_n), summed over rows                                 over image keys
//
// with x the signal: G, P (G - D), P G or P.
#pragma once

#include "block.h"
#include "lanes.h"

namespace dexar {

// The products of some lanes.
struct Products {
    const float* gradient;  // null: not needed
    float* logits;          // overwritten with P
    int64_t key_stride;
};

constexpr int64_t KEYS_OF_SUMS = 256;  // whose exponentials are added up before they are added to the others'

// Some lanes of a panel.
struct Group {
    using L = Lanes<WIDTH>;
    using Float = L::Float;
    using Int = L::Int;

    const Block& block;
    const int64_t panel, lane;
    int64_t valid;                     // lanes that are no padding
    const Products products;
    Int start{}, stop{};               // visible keys of each lane, counted from the block's first
    int64_t first, last;               // keys that any lane sees: first <= j < last
    int64_t all_first, all_last;       // keys that every lane sees
    Float d_dot_out{};

    DEXAR_INLINE Group(const Block& block, int64_t panel, int64_t lane, Products products)
        : block(block), panel(panel), lane(lane), products(products) {
        valid = block.n_lanes() - lane < WIDTH ? block.n_lanes() - lane : WIDTH;
        first = all_last = block.n_keys;
        last = all_first = 0;
        for (int64_t i = 0; i < valid; ++i) {
            const int64_t row = block.heads_are_lanes ? panel : lane + i;
            const int64_t from = block.first_seen(row), to = block.last_seen(row);
            start[i] = static_cast<int32_t>(from);
            stop[i] = static_cast<int32_t>(to);
            first = from < first ? from : first;
            last = to > last ? to : last;
            all_first = from > all_first ? from : all_first;
            all_last = to < all_last ? to : all_last;
        }
        if (valid < WIDTH) {  // padding sees nothing, whatever its products are
            all_first = block.n_keys;
            all_last = 0;
        }
        if (block.d_dot_out) d_dot_out = load_strided(block.d_dot_out);
    }

    DEXAR_INLINE bool all_see(int64_t key) const { return key >= all_first && key < all_last; }

    // -1 where the lane sees the key, 0 elsewhere.
    DEXAR_INLINE Int sees(int64_t key) const {
        const Int j = static_cast<int32_t>(key) - Int{};
        return (j >= start) & (j < stop);
    }

    template <Signal signal>
    DEXAR_INLINE Float of_key(int64_t key) const {
        const int64_t at = key * products.key_stride;
        if constexpr (signal == GRADIENT) return L::load(products.gradient + at);
        if constexpr (signal == ATTENTION) return L::load(products.logits + at);
        const Float p = L::load(products.logits + at), g = L::load(products.gradient + at);
        return p * (signal == CONTRIBUTION ? g : g - d_dot_out);
    }

    // relu of the signal, zero on hidden keys.
    template <Signal signal>
    DEXAR_INLINE Float relu_of_key(int64_t key) const {
        const Float x = L::relu(of_key<signal>(key));
        return all_see(key) ? x : L::select(sees(key), x, Float{});
    }

    DEXAR_INLINE Float load_strided(const float* from) const {
        Float x{};
        for (int64_t i = 0; i < valid; ++i) x[i] = from[block.of_row_and_head(panel, lane + i)];
        return x;
    }

    DEXAR_INLINE void store_strided(float* to, Float x) const {
        for (int64_t i = 0; i < valid; ++i) to[block.of_row_and_head(panel, lane + i)] = x[i];
    }

    // Turn logits into probabilities, zero on hidden keys.
    DEXAR_INLINE void softmax() const {
        if (block.softcap != 0) {
            const Float cap = L::fill(block.softcap);
            for (int64_t j = first; j < last; ++j) {
                float* at = products.logits + j * products.key_stride;
                L::store(at, cap * L::tanh(L::load(at) / cap));
            }
        }
        Float lse{};
        if (block.lse_is_known) {
            lse = load_strided(block.lse);
        } else {
            Float highest = L::fill(-INF), sum{};
            for (int64_t j = first; j < last; ++j) {
                const Float l = L::load(products.logits + j * products.key_stride);
                highest = L::max(highest, all_see(j) ? l : L::select(sees(j), l, L::fill(-INF)));
            }
            // Of a row that sees nothing every difference below is hidden.
            const Float shift = L::select(highest == L::fill(-INF), Float{}, highest);
            // Some keys' sum after the other: small terms would vanish beside a large one.
            for (int64_t from = first; from < last; from += KEYS_OF_SUMS) {
                Float of_some{};
                for (int64_t j = from; j < last && j < from + KEYS_OF_SUMS; ++j) {
                    const Float e = L::exp(L::load(products.logits + j * products.key_stride) - shift);
                    of_some += all_see(j) ? e : L::select(sees(j), e, Float{});
                }
                sum += of_some;
            }
            for (int i = 0; i < WIDTH; ++i) lse[i] = highest[i] == INF ? INF : shift[i] + std::log(sum[i]);
            store_strided(block.lse, lse);
        }
        for (int64_t j = first; j < last; ++j) {
            const Float p = L::exp(L::load(products.logits + j * products.key_stride) - lse);
            L::store(products.logits + j * products.key_stride, all_see(j) ? p : L::select(sees(j), p, Float{}));
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
        const Scores& to = block.scores[signal];
        store_strided(to.image, image);
        store_strided(to.text, text);
        store_strided(to.image_min, L::select(sees_image, low, Float{}));
        return L::relu(image - text);
    }

    // Weighted image keys, with their number among the image keys: of those from `from` up to `to`.
    template <Signal signal, typename Add>
    DEXAR_INLINE void weigh(Float weights, int64_t from, int64_t to, Add add) const {
        for (int64_t n = from; n < to; ++n) {
            const int64_t j = block.image_keys[n];
            if (j < first || j >= last) continue;
            const Float x = relu_of_key<signal>(j);
            const Float weighted = weights * x;  // NaN times zero is NaN
            add(n, all_see(j) ? weighted : L::select(sees(j), weighted, Float{}), x);
        }
    }

    DEXAR_INLINE void write_columns() const {
        const int64_t row = block.n_heads * block.column_stride, head = block.column_stride;
        const int64_t of_lane = block.heads_are_lanes ? head : row, of_panel = block.heads_are_lanes ? row : head;
        float* to = block.columns + panel * of_panel + lane * of_lane;
        for (int64_t n = 0; n < block.n_image_keys; ++n) {
            const int64_t j = block.image_keys[n];
            const Float p = j < first || j >= last ? Float{} : L::load(products.logits + j * products.key_stride);
            for (int64_t i = 0; i < valid; ++i) to[i * of_lane + n] = p[i];
        }
    }

    // `act` with the signal as a constant.
    template <typename Act>
    static DEXAR_INLINE auto with_signal(int32_t signal, Act act) {
        switch (signal) {
            case GRADIENT: return act(std::integral_constant<Signal, GRADIENT>());
            case SCORE_GRADIENT: return act(std::integral_constant<Signal, SCORE_GRADIENT>());
            case CONTRIBUTION: return act(std::integral_constant<Signal, CONTRIBUTION>());
            default: return act(std::integral_constant<Signal, ATTENTION>());
        }
    }

    // Everything but sums over lanes; the weights of each of the sums go to `use`.
    template <typename Use>
    DEXAR_INLINE void run(Use use) const {
        if (products.logits) softmax();
        if (block.columns) write_columns();
        Float of_scores[N_SIGNALS] = {};
        for (int32_t signal = 0; signal < N_SIGNALS; ++signal)
            if (block.scores[signal].image)
                of_scores[signal] = with_signal(signal, [&](auto of) DEXAR_INLINED { return scores<of()>(); });
        for (int64_t s = 0; s < block.n_sums; ++s) {
            const Sums& sums = block.sums[s];
            use(sums, sums.weights ? load_strided(sums.weights) : of_scores[sums.score_signal]);
        }
    }
};

}  // namespace dexar
