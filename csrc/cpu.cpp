// The entry points, and the choice of an instruction set at run time.
#include "passes.h"
#include "products.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define DEXAR_X86 1
#endif

namespace dexar {
namespace {

// Passes have 256 bits also under AVX-512, whose masks and registers still help: GCC 12 turns comparisons of 512-bit vectors
// into scalar code, six times slower. Products compare nothing.
struct InstructionSet {
    const char* name;
    bool is_available;
    void (*multiply)(const Block&, const Factors&, float* out, int64_t key_head, int64_t first, int64_t last);
    void (*run)(const Block&, int64_t panel, int64_t lane, int64_t chunk);
    void (*maps)(const Block&, int64_t row, int64_t from);
    void (*token_sums)(const Block&, int64_t panel, int64_t lane);
};

#define DEXAR_COMPILE(NAME, TARGET, PRODUCT_WIDTH)                                                                              \
    TARGET void multiply_##NAME(                                                                                 \
        const Block& block, const Factors& factors, float* out, int64_t key_head, int64_t first, int64_t last) { \
        multiply<PRODUCT_WIDTH>(block, factors, out, key_head, first, last);                                                    \
    }                                                                                                            \
    TARGET void run_##NAME(const Block& block, int64_t panel, int64_t lane, int64_t chunk) {                     \
        Group(block, panel, lane).run(chunk);                                                                    \
    }                                                                                                            \
    TARGET void maps_##NAME(const Block& block, int64_t row, int64_t from) {                                     \
        Group::run_maps(block, row, from);                                                                       \
    }                                                                                                            \
    TARGET void token_sums_##NAME(const Block& block, int64_t panel, int64_t lane) {                             \
        Group(block, panel, lane).run_token_sums();                                                              \
    }

DEXAR_COMPILE(baseline, , 8)
#ifdef DEXAR_X86
DEXAR_COMPILE(avx2, __attribute__((target("avx2,fma"))), 8)
DEXAR_COMPILE(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), 16)
#endif

const InstructionSet* instruction_sets(int* count) {
    static const InstructionSet sets[] = {
#ifdef DEXAR_X86
        {"avx512",
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"),
         multiply_avx512, run_avx512, maps_avx512, token_sums_avx512},
        {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), multiply_avx2, run_avx2, maps_avx2, token_sums_avx2},
#endif
        {"baseline", true, multiply_baseline, run_baseline, maps_baseline, token_sums_baseline},
    };
    *count = sizeof sets / sizeof *sets;
    return sets;
}

// Of a product that is made here: they stay in cache while all rows pass. Every thread has as many blocks of them, for one
// that had one more would keep the others waiting. Whole tiles; fewer keys at once stream slower.
int64_t keys_at_once(const Block& block, int32_t n_threads) {
    constexpr int64_t MOST = 192, LEAST = 32;
    const int64_t rounds = (block.n_keys + MOST * n_threads - 1) / (MOST * n_threads), n_blocks = rounds * n_threads;
    const int64_t keys = n_blocks ? (block.n_keys + n_blocks - 1) / n_blocks : LEAST;
    return (keys + LEAST - 1) / LEAST * LEAST;
}

}  // namespace
}  // namespace dexar

extern "C" {

int32_t dexar_abi_version() { return dexar::ABI_VERSION; }

// Name of the index-th instruction set that this processor has, the widest first; null behind the last.
const char* dexar_instruction_set(int32_t index) {
    int count;
    const dexar::InstructionSet* sets = dexar::instruction_sets(&count);
    for (int i = 0; i < count; ++i)
        if (sets[i].is_available && index-- == 0) return sets[i].name;
    return nullptr;
}

// Run a block with the index-th of these instruction sets. Which thread takes what changes no result.
void dexar_run_block(const dexar::Block* given, int32_t index, int32_t n_threads) {
    using dexar::WIDTH;
    const dexar::Block& block = *given;
    int count;
    const dexar::InstructionSet* set = dexar::instruction_sets(&count);
    while (!set->is_available || index-- > 0) ++set;
    const int64_t n_groups = block.padded() / WIDTH;
    // Where lanes are rows, the heads of a chunk add to one map, one after the other.
    const int64_t n_chunks = block.heads_are_lanes ? block.n_panels() : block.n_chunks;
    const int64_t n_keys_at_once = dexar::keys_at_once(block, n_threads);
    bool has_token_sums = false;
    for (int64_t s = 0; s < block.n_sums; ++s) has_token_sums |= block.sums[s].token_sums.data != nullptr;
#pragma omp parallel num_threads(n_threads)
    {
        const struct {
            const dexar::Factors& factors;
            float* out;
        } products[] = {{block.value, const_cast<float*>(block.gradient)}, {block.key, block.logits}};
        for (const auto& product : products) {
            if (!product.factors.rows) continue;
            // Products of a key with all heads lie side by side: a thread makes them all, or caches wait for each other.
#pragma omp for schedule(dynamic)
            for (int64_t first = 0; first < block.n_keys; first += n_keys_at_once) {
                const int64_t next = first + n_keys_at_once, last = next < block.n_keys ? next : block.n_keys;
                for (int64_t head = 0; head < block.n_key_heads; ++head)
                    set->multiply(block, product.factors, product.out, head, first, last);
            }
        }
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < n_chunks * n_groups; ++task) {
            const int64_t chunk = task / n_groups, lane = task % n_groups * WIDTH;
            const int64_t first = chunk * block.n_panels() / n_chunks, last = (chunk + 1) * block.n_panels() / n_chunks;
            for (int64_t panel = first; panel < last; ++panel) set->run(block, panel, lane, chunk);
        }
        if (block.heads_are_lanes && block.n_sums > 0) {
            const int64_t n_parts = (block.n_image_keys + dexar::KEYS_OF_MAPS - 1) / dexar::KEYS_OF_MAPS;
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < block.n_rows * n_parts; ++task)
                set->maps(block, task / n_parts, task % n_parts * dexar::KEYS_OF_MAPS);
        }
        if (has_token_sums) {
            // A thread has all rows of a head: panels where lanes are heads, lanes else.
            const int64_t heads = block.heads_are_lanes ? n_groups : block.n_panels();
            const int64_t rows = block.heads_are_lanes ? block.n_panels() : n_groups;
#pragma omp for schedule(dynamic)
            for (int64_t head = 0; head < heads; ++head)
                for (int64_t row = 0; row < rows; ++row)
                    block.heads_are_lanes ? set->token_sums(block, row, head * WIDTH)
                                          : set->token_sums(block, head, row * WIDTH);
        }
    }
}

}  // extern "C"
