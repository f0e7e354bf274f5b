// The entry points, and the choice of an instruction set at run time.
#include "passes.h"

#if defined(__x86_64__) && defined(__GNUC__)
#define DEXAR_X86 1
#endif

namespace dexar {
namespace {

typedef void (*RowsFunction)(const Block&, int64_t row);

template <int W>
void rows_baseline(const Block& block, int64_t row) {
    Rows<W>(block, row).run();
}

#ifdef DEXAR_X86
template <int W>
__attribute__((target("avx2,fma"))) void rows_avx2(const Block& block, int64_t row) {
    Rows<W>(block, row).run();
}

template <int W>
__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma"))) void rows_avx512(const Block& block, int64_t row) {
    Rows<W>(block, row).run();
}
#endif

// Rows are taken WIDE at a time as long as there are so many, the rest one by one. 256 bits also under AVX-512, whose masks
// and registers still help: GCC 12 turns comparisons of 512-bit vectors into scalar code, six times slower.
constexpr int WIDE = 8;

struct InstructionSet {
    const char* name;
    bool is_available;
    RowsFunction wide, narrow;
};

const InstructionSet* instruction_sets(int* count) {
    static const InstructionSet sets[] = {
#ifdef DEXAR_X86
        {"avx512",
         __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma"),
         rows_avx512<WIDE>, rows_avx512<1>},
        {"avx2", __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"), rows_avx2<WIDE>, rows_avx2<1>},
#endif
        {"baseline", true, rows_baseline<WIDE>, rows_baseline<1>},
    };
    *count = sizeof sets / sizeof *sets;
    return sets;
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

// Run a block with the index-th of these instruction sets.
void dexar_run_block(const dexar::Block* block, int32_t index, int32_t n_threads) {
    int count;
    const dexar::InstructionSet* set = dexar::instruction_sets(&count);
    while (!set->is_available || index-- > 0) ++set;
    const int64_t n_wide = block->n_rows / dexar::WIDE, n_narrow = block->n_rows % dexar::WIDE;
#pragma omp parallel for schedule(static) num_threads(n_threads)
    for (int64_t i = 0; i < n_wide + n_narrow; ++i) {
        // All heads of a row in one thread: they add to the same maps.
        for (int64_t head = 0; head < block->n_heads; ++head) {
            const dexar::Block one = block->of_head(head);
            if (i < n_wide)
                set->wide(one, i * dexar::WIDE);
            else
                set->narrow(one, n_wide * dexar::WIDE + (i - n_wide));
        }
    }
}

}  // extern "C"
