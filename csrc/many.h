// Many rows: lanes are rows, and a task is some of them with some heads, one after the other. It makes the products of a head
// and reads everything off them while they are in its thread's cache. Tasks share nothing that they write.
#pragma once

#include "passes.h"
#include "strips.h"

namespace dexar {

struct Task {
    const Block& block;
    int64_t chunk, part;
    int64_t first_row, last_row;
    int64_t first_key = 0, last_key = 0;  // that any of the rows sees

    // Tasks that are taken one after the other have the same heads.
    Task(const Block& block, int64_t index) : block(block), chunk(index / n_parts(block)), part(index % n_parts(block)) {
        first_row = STRIP * (part * block.n_strips() / n_parts(block));
        last_row = STRIP * ((part + 1) * block.n_strips() / n_parts(block));
        last_row = last_row < block.n_rows ? last_row : block.n_rows;
        for (int64_t row = first_row; row < last_row; ++row) {
            const int64_t from = block.first_seen(row), to = block.last_seen(row);
            if (from >= to) continue;
            first_key = first_key < last_key && first_key < from ? first_key : from;
            last_key = last_key > to ? last_key : to;
        }
    }

    // Of a chunk: the rows' share.
    static int64_t n_parts(const Block& block) {
        return block.strips_at_once ? (block.n_strips() + block.strips_at_once - 1) / block.strips_at_once : 0;
    }

    template <int W, int KEYS>
    DEXAR_INLINE void run(int64_t thread) const {
        const int64_t room = block.strips_at_once * block.n_keys * STRIP;
        float* gradient = block.gradient ? block.gradient + thread * room : nullptr;
        float* logits = block.logits ? block.logits + thread * room : nullptr;
        const int64_t first_head = chunk * block.n_heads / block.n_chunks;
        const int64_t last_head = (chunk + 1) * block.n_heads / block.n_chunks;
        for (int64_t head = first_head; head < last_head; ++head) {
            if (gradient) multiply<W, KEYS>(block.value, head, thread, gradient);
            if (logits) multiply<W, KEYS>(block.key, head, thread, logits);
            for (int64_t row = first_row; row < last_row; row += WIDTH) {
                const int64_t at = (row - first_row) / STRIP * block.n_keys * STRIP + row % STRIP;
                read_off(Group(block, head, row, {gradient ? gradient + at : nullptr, logits ? logits + at : nullptr, STRIP}));
            }
        }
    }

    template <int W, int KEYS>
    DEXAR_INLINE void multiply(const Factors& factors, int64_t head, int64_t thread, float* out) const {
        const int64_t lanes = block.strips_at_once * STRIP, n_strips = (last_row - first_row + STRIP - 1) / STRIP;
        const int64_t key_head = head / (block.n_heads / block.n_key_heads);
        float* packed = block.packed + thread * (lanes + STRIP) * block.most_depth();
        float* wide = packed + lanes * factors.depth;
        with_dtype(factors.dtype, [&](auto of) DEXAR_INLINED {
            pack_strips<of(), W>(factors, head, first_row, last_row, packed);
            multiply_head<of(), W, KEYS>(factors, key_head, first_key, last_key, packed, n_strips, wide, out, block.n_keys);
        });
    }

    DEXAR_INLINE void read_off(const Group& group) const {
        using L = Group::L;
        const int64_t strip = chunk * block.n_strips() + group.lane / STRIP, N = block.n_image_keys;
        const int64_t at = strip * N * STRIP + group.lane % STRIP;
        group.run([&](const Sums& sums, Group::Float weights) DEXAR_INLINED {
            float* maps = sums.panels + at;
            float* unfiltered = sums.unfiltered_panels ? sums.unfiltered_panels + at : nullptr;
            float* of_rows = sums.row_sums ? sums.row_sums + (part * block.n_heads + group.panel) * N : nullptr;
            Group::with_signal(sums.map_signal, [&](auto of) DEXAR_INLINED {
                group.weigh<of()>(weights, 0, N, [&](int64_t n, Group::Float weighted, Group::Float x) DEXAR_INLINED {
                    L::store(maps + n * STRIP, L::load(maps + n * STRIP) + weighted);
                    if (unfiltered) L::store(unfiltered + n * STRIP, L::load(unfiltered + n * STRIP) + x);
                    if (of_rows) of_rows[n] += L::sum(x);
                });
            });
        });
    }
};

// Behind all tasks: what chunks have of a strip's maps, of some image keys, is added in their order.
inline void add_panels(const Block& block, const float* panels, const Matrix& to, int64_t strip, int64_t from) {
    const int64_t N = block.n_image_keys, count = N - from < KEYS_OF_MAPS ? N - from : KEYS_OF_MAPS;
    float sums[KEYS_OF_MAPS * STRIP] = {};
    for (int64_t chunk = 0; chunk < block.n_chunks; ++chunk) {
        const float* own = panels + ((chunk * block.n_strips() + strip) * N + from) * STRIP;
        for (int64_t i = 0; i < count * STRIP; ++i) sums[i] += own[i];
    }
    for (int64_t i = 0; i < STRIP && strip * STRIP + i < block.n_rows; ++i)
        for (int64_t n = 0; n < count; ++n) to.at(strip * STRIP + i, from + n) += sums[n * STRIP + i];
}

inline void add_row_sums(const Block& block, const float* sums, const Matrix& to, int64_t head) {
    for (int64_t n = 0; n < block.n_image_keys; ++n) {
        float sum = 0;
        for (int64_t part = 0; part < Task::n_parts(block); ++part)
            sum += sums[(part * block.n_heads + head) * block.n_image_keys + n];
        to.at(head, n) += sum;
    }
}

}  // namespace dexar
