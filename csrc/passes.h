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

constexpr int64_t KEYS_OF_MAPS = 64;  // image keys of a row's maps that are summed at once

// Some lanes of a panel.
struct Group {
    using L = Lanes<WIDTH>;
    using Float = L::Float;
    using Int = L::Int;

    const Block& block;
    const int64_t panel, lane;
    int64_t valid;                     // lanes that are no padding
    const float* gradient;
    float* logits;
    int64_t key_stride;
    Int start{}, stop{};               // visible keys of each lane, counted from the block's first
    int64_t first, last;               // keys that any lane sees: first <= j < last
    int64_t all_first, all_last;       // keys that every lane sees
    Float d_dot_out{};

    DEXAR_INLINE Group(const Block& block, int64_t panel, int64_t lane) : block(block), panel(panel), lane(lane) {
        valid = block.n_lanes() - lane < WIDTH ? block.n_lanes() - lane : WIDTH;
        const int64_t at = block.panel(panel) + lane;
        gradient = block.gradient ? block.gradient + at : nullptr;
        logits = block.logits ? block.logits + at : nullptr;
        key_stride = block.key_stride();
        first = all_last = block.n_keys;
        last = all_first = 0;
        for (int64_t i = 0; i < valid; ++i) {
            const int64_t row = block.heads_are_lanes ? panel : lane + i;
            const int64_t from = clip(block.visible[2 * row]), to = clip(block.visible[2 * row + 1]);
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

    DEXAR_INLINE int64_t clip(int64_t position) const {
        const int64_t key = position - block.first_key;
        return key < 0 ? 0 : key > block.n_keys ? block.n_keys : key;
    }

    DEXAR_INLINE bool all_see(int64_t key) const { return key >= all_first && key < all_last; }

    // -1 where the lane sees the key, 0 elsewhere.
    DEXAR_INLINE Int sees(int64_t key) const {
        const Int j = static_cast<int32_t>(key) - Int{};
        return (j >= start) & (j < stop);
    }

    template <Signal signal>
    DEXAR_INLINE Float of_key(int64_t key) const {
        const int64_t at = key * key_stride;
        if constexpr (signal == GRADIENT) return L::load(gradient + at);
        if constexpr (signal == SCORE_GRADIENT) return L::load(logits + at) * (L::load(gradient + at) - d_dot_out);
        if constexpr (signal == CONTRIBUTION) return L::load(logits + at) * L::load(gradient + at);
        return L::load(logits + at);
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
                float* at = logits + j * key_stride;
                L::store(at, cap * L::tanh(L::load(at) / cap));
            }
        }
        Float lse{};
        if (block.lse_is_known) {
            lse = load_strided(block.lse);
        } else {
            Float highest = L::fill(-INF), sum{};
            for (int64_t j = first; j < last; ++j) {
                const Float l = L::load(logits + j * key_stride);
                highest = L::max(highest, all_see(j) ? l : L::select(sees(j), l, L::fill(-INF)));
            }
            // Of a row that sees nothing every difference below is hidden.
            const Float shift = L::select(highest == L::fill(-INF), Float{}, highest);
            for (int64_t j = first; j < last; ++j) {
                const Float e = L::exp(L::load(logits + j * key_stride) - shift);
                sum += all_see(j) ? e : L::select(sees(j), e, Float{});
            }
            for (int i = 0; i < WIDTH; ++i) lse[i] = highest[i] == INF ? INF : shift[i] + std::log(sum[i]);
            store_strided(block.lse, lse);
        }
        for (int64_t j = first; j < last; ++j) {
            const Float p = L::exp(L::load(logits + j * key_stride) - lse);
            L::store(logits + j * key_stride, all_see(j) ? p : L::select(sees(j), p, Float{}));
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

    // Lanes that are rows have a cell each.
    template <Signal signal>
    DEXAR_INLINE void add_to_panels(Float weights, float* maps, float* unfiltered) const {
        const int64_t stride = block.padded();
        const auto add = [&](float* panel, int64_t n, Float x) DEXAR_INLINED {
            float* to = panel + n * stride;
            L::store(to, L::load(to) + x);
        };
        weigh<signal>(weights, 0, block.n_image_keys, [&](int64_t n, Float weighted, Float x) DEXAR_INLINED {
            if (maps) add(maps, n, weighted);
            if (unfiltered) add(unfiltered, n, x);
        });
    }

    // Lanes that are heads have a cell together, with all other groups: `sums[n - from]` and `plain`.
    template <Signal signal>
    DEXAR_INLINE void add_to_cells(Float weights, int64_t from, int64_t to, Float* sums, Float* plain) const {
        weigh<signal>(weights, from, to, [&](int64_t n, Float weighted, Float x) DEXAR_INLINED {
            sums[n - from] += weighted;
            plain[n - from] += x;
        });
    }

    // Of lanes that are rows, the sum over them; of lanes that are heads, a cell of each.
    template <Signal signal>
    DEXAR_INLINE void add_token_sums(const Matrix& token_sums) const {
        for (int64_t n = 0; n < block.n_image_keys; ++n) {
            const int64_t j = block.image_keys[n];
            if (j < first || j >= last) continue;
            const Float x = relu_of_key<signal>(j);
            if (block.heads_are_lanes) {
                for (int64_t i = 0; i < valid; ++i) token_sums.at(lane + i, n) += x[i];
            } else {
                token_sums.at(panel, n) += L::sum(x);
            }
        }
    }

    DEXAR_INLINE void write_columns() const {
        const int64_t row = block.head_stride * block.column_stride, head = block.column_stride;
        const int64_t of_lane = block.heads_are_lanes ? head : row, of_panel = block.heads_are_lanes ? row : head;
        float* to = block.columns + panel * of_panel + lane * of_lane;
        for (int64_t n = 0; n < block.n_image_keys; ++n) {
            const int64_t j = block.image_keys[n];
            if (j < first || j >= last) continue;
            const Float p = L::load(logits + j * key_stride);
            for (int64_t i = 0; i < valid; ++i) to[i * of_lane + n] = p[i];
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

    DEXAR_INLINE void add_to_panels_of(int32_t signal, Float weights, float* maps, float* unfiltered) const {
        switch (signal) {
            case GRADIENT: return add_to_panels<GRADIENT>(weights, maps, unfiltered);
            case SCORE_GRADIENT: return add_to_panels<SCORE_GRADIENT>(weights, maps, unfiltered);
            case CONTRIBUTION: return add_to_panels<CONTRIBUTION>(weights, maps, unfiltered);
            default: return add_to_panels<ATTENTION>(weights, maps, unfiltered);
        }
    }

    DEXAR_INLINE void add_to_cells_of(
        int32_t signal, Float weights, int64_t from, int64_t to, Float* sums, Float* plain) const {
        switch (signal) {
            case GRADIENT: return add_to_cells<GRADIENT>(weights, from, to, sums, plain);
            case SCORE_GRADIENT: return add_to_cells<SCORE_GRADIENT>(weights, from, to, sums, plain);
            case CONTRIBUTION: return add_to_cells<CONTRIBUTION>(weights, from, to, sums, plain);
            default: return add_to_cells<ATTENTION>(weights, from, to, sums, plain);
        }
    }

    DEXAR_INLINE void add_token_sums_of(int32_t signal, const Matrix& token_sums) const {
        switch (signal) {
            case GRADIENT: return add_token_sums<GRADIENT>(token_sums);
            case SCORE_GRADIENT: return add_token_sums<SCORE_GRADIENT>(token_sums);
            case CONTRIBUTION: return add_token_sums<CONTRIBUTION>(token_sums);
            default: return add_token_sums<ATTENTION>(token_sums);
        }
    }

    // Everything but sums over lanes or panels. Panels of maps are those of the chunk.
    DEXAR_INLINE void run(int64_t chunk) const {
        if (logits) softmax();
        if (block.columns) write_columns();
        Float of_scores[N_SIGNALS] = {};
        for (int32_t signal = 0; signal < N_SIGNALS; ++signal)
            if (block.scores[signal].image) of_scores[signal] = scores_of(signal);
        for (int64_t s = 0; s < block.n_sums; ++s) {
            const Sums& sums = block.sums[s];
            const Float weights = sums.weights ? load_strided(sums.weights) : of_scores[sums.score_signal];
            if (block.heads_are_lanes) {
                L::store(sums.lane_weights + panel * block.padded() + lane, weights);
            } else {
                const int64_t own = chunk * block.n_image_keys * block.padded() + lane;
                float* unfiltered = sums.unfiltered_panels ? sums.unfiltered_panels + own : nullptr;
                add_to_panels_of(sums.map_signal, weights, sums.panels + own, unfiltered);
            }
        }
    }

    // Of one row whose lanes are heads: some image keys of its maps, behind `run` of all its groups.
    static DEXAR_INLINE void run_maps(const Block& block, int64_t row, int64_t from) {
        const int64_t to = from + KEYS_OF_MAPS < block.n_image_keys ? from + KEYS_OF_MAPS : block.n_image_keys;
        for (int64_t s = 0; s < block.n_sums; ++s) {
            const Sums& sums = block.sums[s];
            Float weighted[KEYS_OF_MAPS] = {}, plain[KEYS_OF_MAPS] = {};
            for (int64_t lane = 0; lane < block.padded(); lane += WIDTH) {
                const Float weights = L::load(sums.lane_weights + row * block.padded() + lane);
                Group(block, row, lane).add_to_cells_of(sums.map_signal, weights, from, to, weighted, plain);
            }
            for (int64_t n = from; n < to; ++n) {
                sums.maps.at(row, n) += L::sum(weighted[n - from]);
                if (sums.unfiltered.data) sums.unfiltered.at(row, n) += L::sum(plain[n - from]);
            }
        }
    }

    // Behind `run`, one group after the other: groups share the sums of a head.
    DEXAR_INLINE void run_token_sums() const {
        for (int64_t s = 0; s < block.n_sums; ++s)
            if (block.sums[s].token_sums.data) add_token_sums_of(block.sums[s].map_signal, block.sums[s].token_sums);
    }
};

}  // namespace dexar
