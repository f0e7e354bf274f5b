// Few rows: lanes are heads, a panel is a row, and threads share the keys.
#pragma once

#include "passes.h"

namespace dexar {

// Some heads of a row.
struct Heads : Group {
    DEXAR_INLINE Heads(const Block& block, int64_t row, int64_t lane)
        : Group(block, row, lane, products_of(block, row * block.n_keys * block.padded() + lane)) {}

    static DEXAR_INLINE Products products_of(const Block& block, int64_t at) {
        return {block.gradient ? block.gradient + at : nullptr, block.logits ? block.logits + at : nullptr, block.padded()};
    }

    // Everything but sums over heads or rows.
    DEXAR_INLINE void run_scores() const {
        run([&](const Sums& sums, Float weights) DEXAR_INLINED {
            L::store(sums.lane_weights + panel * block.padded() + lane, weights);
        });
    }

    // Behind `run_scores` of all heads of the row: some image keys of its maps.
    static DEXAR_INLINE void run_maps(const Block& block, int64_t row, int64_t from) {
        const int64_t to = from + KEYS_OF_MAPS < block.n_image_keys ? from + KEYS_OF_MAPS : block.n_image_keys;
        for (int64_t s = 0; s < block.n_sums; ++s) {
            const Sums& sums = block.sums[s];
            Float weighted[KEYS_OF_MAPS] = {}, plain[KEYS_OF_MAPS] = {};
            for (int64_t lane = 0; lane < block.padded(); lane += WIDTH) {
                const Float weights = L::load(sums.lane_weights + row * block.padded() + lane);
                const Heads heads(block, row, lane);
                with_signal(sums.map_signal, [&](auto of) DEXAR_INLINED {
                    heads.weigh<of()>(weights, from, to, [&](int64_t n, Float w, Float x) DEXAR_INLINED {
                        weighted[n - from] += w;
                        plain[n - from] += x;
                    });
                });
            }
            for (int64_t n = from; n < to; ++n) {
                sums.maps.at(row, n) += L::sum(weighted[n - from]);
                if (sums.unfiltered.data) sums.unfiltered.at(row, n) += L::sum(plain[n - from]);
            }
        }
    }

    // Behind `run_scores`, one row after the other: rows share the sums of a head.
    DEXAR_INLINE void run_token_sums() const {
        for (int64_t s = 0; s < block.n_sums; ++s) {
            const Matrix& to = block.sums[s].token_sums;
            if (!to.data) continue;
            with_signal(block.sums[s].map_signal, [&](auto of) DEXAR_INLINED {
                weigh<of()>(Float{}, 0, block.n_image_keys, [&](int64_t n, Float, Float x) DEXAR_INLINED {
                    for (int64_t i = 0; i < valid; ++i) to.at(lane + i, n) += x[i];
                });
            });
        }
    }
};

}  // namespace dexar
