// The entry points, and the choice of an instruction set at run time.
#include "few.h"
#include "many.h"
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
    void (*task)(const Task&, int64_t thread);
    void (*multiply)(const Block&, const Factors&, float* out, int64_t key_head, int64_t first, int64_t last);
    void (*scores)(const Block&, int64_t row, int64_t lane);
    void (*maps)(const Block&, int64_t row, int64_t from);
    void (*token_sums)(const Block&, int64_t row, int64_t lane);
};

// KEYS of many rows: their sums, of a strip of 16 rows or of four, fill the registers.
#define DEXAR_COMPILE(NAME, TARGET, PRODUCT_WIDTH, KEYS)                                                             \
    TARGET void task_##NAME(const Task& task, int64_t thread) { task.run<PRODUCT_WIDTH, KEYS>(thread); }             \
    TARGET void multiply_##NAME(                                                                                     \
        const Block& block, const Factors& factors, float* out, int64_t key_head, int64_t first, int64_t last) {     \
        multiply<PRODUCT_WIDTH>(block, factors, out, key_head, first, last);                                         \
    }                                                                                                                \
    TARGET void scores_##NAME(const Block& block, int64_t row, int64_t lane) { Heads(block, row, lane).run_scores(); } \
    TARGET void maps_##NAME(const Block& block, int64_t row, int64_t from) { Heads::run_maps(block, row, from); }    \
    TARGET void token_sums_##NAME(const Block& block, int64_t row, int64_t lane) { Heads(block, row, lane).run_token_sums(); }

#define DEXAR_FUNCTIONS(NAME) task_##NAME, multiply_##NAME, scores_##NAME, maps_##NAME, token_sums_##NAME

#ifdef DEXAR_X86
DEXAR_COMPILE(baseline, , 8, 2)
DEXAR_COMPILE(avx2, __attribute__((target("avx2,fma"))), 8, 6)
DEXAR_COMPILE(avx512, __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))), 16, 6)
#else
DEXAR_COMPILE(baseline, , 8, 6)
#endif

const InstructionSet* instruction_sets(int* count) {
    static const InstructionSet sets[] = {
#ifdef DEXAR_X86
        {"avx512",
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"),
         DEXAR_FUNCTIONS(avx512)},
        {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), DEXAR_FUNCTIONS(avx2)},
#endif
        {"baseline", true, DEXAR_FUNCTIONS(baseline)},
    };
    *count = sizeof sets / sizeof *sets;
    return sets;
}

// Of a product of few rows: they stay in cache while all rows pass. Every thread has as many blocks of them, for one
// that had one more would keep the others waiting. Whole tiles; fewer keys at once stream slower.
int64_t keys_at_once(const Block& block, int32_t n_threads) {
    constexpr int64_t MOST = 192, LEAST = 32;
    const int64_t rounds = (block.n_keys + MOST * n_threads - 1) / (MOST * n_threads), n_blocks = rounds * n_threads;
    const int64_t keys = n_blocks ? (block.n_keys + n_blocks - 1) / n_blocks : LEAST;
    return (keys + LEAST - 1) / LEAST * LEAST;
}

bool has_token_sums(const Block& block) {
    bool any = false;
    for (int64_t s = 0; s < block.n_sums; ++s) any |= block.sums[s].token_sums.data != nullptr;
    return any;
}

// Threads wait for each other where they must, for beside other programs each time may take long: behind the products,
// and between scores and maps where there is too much to do for one row's thread alone.
void run_few(const Block& block, const InstructionSet& set, int32_t n_threads) {
    constexpr int64_t OF_ONE_THREAD = 1 << 15;  // products of a row: some 10 us
    const int64_t n_groups = block.padded() / WIDTH, at_once = keys_at_once(block, n_threads);
    const int64_t n_parts = block.n_sums > 0 ? (block.n_image_keys + KEYS_OF_MAPS - 1) / KEYS_OF_MAPS : 0;
    const bool rows_are_tasks = block.n_rows >= n_threads || block.n_keys * block.padded() <= OF_ONE_THREAD;
    const bool sums_tokens = has_token_sums(block);
#pragma omp parallel num_threads(n_threads)
    {
        const struct {
            const Factors& factors;
            float* out;
        } products[] = {{block.value, block.gradient}, {block.key, block.logits}};
        for (const auto& product : products) {
            if (!product.factors.rows) continue;
            // Products of a key with all heads lie side by side: a thread makes them all, or caches wait for each other.
#pragma omp for schedule(dynamic) nowait
            for (int64_t first = 0; first < block.n_keys; first += at_once) {
                const int64_t next = first + at_once, last = next < block.n_keys ? next : block.n_keys;
                for (int64_t head = 0; head < block.n_key_heads; ++head)
                    set.multiply(block, product.factors, product.out, head, first, last);
            }
        }
#pragma omp barrier
        if (rows_are_tasks) {
#pragma omp for schedule(dynamic) nowait
            for (int64_t row = 0; row < block.n_rows; ++row) {
                for (int64_t group = 0; group < n_groups; ++group) set.scores(block, row, group * WIDTH);
                for (int64_t part = 0; part < n_parts; ++part) set.maps(block, row, part * KEYS_OF_MAPS);
            }
        } else {
#pragma omp for schedule(dynamic)
            for (int64_t task = 0; task < block.n_rows * n_groups; ++task)
                set.scores(block, task / n_groups, task % n_groups * WIDTH);
#pragma omp for schedule(dynamic) nowait
            for (int64_t task = 0; task < block.n_rows * n_parts; ++task)
                set.maps(block, task / n_parts, task % n_parts * KEYS_OF_MAPS);
        }
        if (sums_tokens) {
            // A thread has all rows of a head.
#pragma omp barrier
#pragma omp for schedule(dynamic) nowait
            for (int64_t group = 0; group < n_groups; ++group)
                for (int64_t row = 0; row < block.n_rows; ++row) set.token_sums(block, row, group * WIDTH);
        }
    }
}

// Threads wait for each other twice: a thread that another program keeps from running keeps one task.
void run_many(const Block& block, const InstructionSet& set, int32_t n_threads) {
    const bool sums_tokens = has_token_sums(block);
    int64_t n_running = 0;
#pragma omp parallel num_threads(n_threads)
    {
        int64_t thread;
#pragma omp atomic capture
        thread = n_running++;
#pragma omp for schedule(dynamic)
        for (int64_t task = 0; task < block.n_chunks * Task::n_parts(block); ++task) set.task(Task(block, task), thread);
        const int64_t n_parts = (block.n_image_keys + KEYS_OF_MAPS - 1) / KEYS_OF_MAPS;
        if (block.n_sums > 0) {
#pragma omp for schedule(dynamic) nowait
            for (int64_t task = 0; task < block.n_strips() * n_parts; ++task)
                for (int64_t s = 0; s < block.n_sums; ++s) {
                    const Sums& sums = block.sums[s];
                    const int64_t strip = task / n_parts, from = task % n_parts * KEYS_OF_MAPS;
                    add_panels(block, sums.panels, sums.maps, strip, from);
                    if (sums.unfiltered_panels) add_panels(block, sums.unfiltered_panels, sums.unfiltered, strip, from);
                }
        }
        if (sums_tokens) {
#pragma omp for schedule(dynamic) nowait
            for (int64_t head = 0; head < block.n_heads; ++head)
                for (int64_t s = 0; s < block.n_sums; ++s)
                    if (block.sums[s].row_sums) add_row_sums(block, block.sums[s].row_sums, block.sums[s].token_sums, head);
        }
    }
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
void dexar_run_block(const dexar::Block* block, int32_t index, int32_t n_threads) {
    int count;
    const dexar::InstructionSet* set = dexar::instruction_sets(&count);
    while (!set->is_available || index-- > 0) ++set;
    (block->heads_are_lanes ? dexar::run_few : dexar::run_many)(*block, *set, n_threads);
}

}  // extern "C"
