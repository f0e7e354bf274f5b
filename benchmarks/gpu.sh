#!/usr/bin/env bash
# What a GPU machine is asked, without a network: tests, then benchmarks, each section a command of its own that ends
# within ten minutes and writes into $OUT as it goes. benchmarks/README.md says what to run in which order.
#
#   make gpu                                 all sections, in their order
#   make gpu ARGS="tests ops"                some: tests ops tune end-to-end batches memcheck
#   make gpu ARGS="ops -- --only Qwen"       what stands behind -- goes to the section's command
#   LIMIT=300 make gpu ARGS=ops              seconds for each section, instead of its own limit
#   DEVICE=cpu SHAPE=tiny make gpu           a rehearsal anywhere
set -euo pipefail
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-benchmarks/results}" && cd "${OUT:-benchmarks/results}" && pwd)
DEVICE=${DEVICE:-cuda}
SET=gpu BATCHED=LLaVA-1.5-7B
[ "${SHAPE:-}" != tiny ] || SET=tiny BATCHED=tiny

sections=() further=()
while [ $# -gt 0 ]; do
    case $1 in
    tests | ops | tune | end-to-end | batches | memcheck) sections+=("$1") ;;
    --) shift && further=("$@") && break ;;
    *) echo "expected tests, ops, tune, end-to-end, batches or memcheck; got $1" >&2 && exit 2 ;;
    esac
    shift
done
[ ${#sections[@]} -gt 0 ] || sections=(tests ops tune end-to-end batches memcheck)

# The package is used as it is installed: only tests and benchmarks come from the checkout.
tree=$PWD work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
if "$PYTHON" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$work/site" . >"$work/pip.log" 2>&1; then
    cp -r tests benchmarks pyproject.toml "$work"
    cd "$work"
    export PYTHONPATH="$work/site"
else
    echo "Not installed, so the tree runs as it is, without the C++ kernels:" && tail -n 3 "$work/pip.log"
    export PYTHONPATH="$tree"
fi
export HF_HUB_OFFLINE=1 DEXAR_TEST_DEVICE="$DEVICE" PYTHONUNBUFFERED=1
export TRITON_INTERPRET=0
[ "$DEVICE" != cpu ] || TRITON_INTERPRET=1 # Triton's kernels run on CPU tensors in its interpreter alone

failed=()
section() { # NAME SECONDS COMMAND...: a section that fails, or is cut off, does not keep the others from running
    local name=$1 limit=${LIMIT:-$2} start=$SECONDS status=0
    shift 2
    printf '\n== %s, at most %s s\n' "$name" "$limit"
    timeout --signal=INT --kill-after=20 "$limit" "$@" "${further[@]}" 2>&1 | tee "$OUT/$name.log" || status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || failed+=("$name")
    [ "$status" != 124 ] || echo "Cut off; what was measured is in $OUT, and -- --only NAME takes up the rest."
    echo "== $name: $((SECONDS - start)) s"
}

# The Triton kernels are what only a GPU can try, so they come first; what needs none is not repeated here.
parallel=()
if "$PYTHON" -c "import xdist" 2>/dev/null; then parallel=(--numprocesses 8 --dist worksteal); fi
pytest=("$PYTHON" -m pytest -v -p no:cacheprovider)

for name in "${sections[@]}"; do
    case $name in
    tests)
        section tests-kernels 300 "${pytest[@]}" "${parallel[@]}" tests/test_ops_backends.py -k triton \
            --junitxml="$OUT/tests-kernels.xml"
        section tests-engine 240 "${pytest[@]}" tests/test_devices.py tests/test_golden.py tests/test_ops.py \
            --junitxml="$OUT/tests-engine.xml"
        ;;
    ops) section ops 540 "$PYTHON" -m benchmarks.run ops --device "$DEVICE" --set "$SET" --budget 2 --out "$OUT" ;;
    tune) section tune 540 "$PYTHON" -m benchmarks.tune --device "$DEVICE" --out "$OUT" ;;
    end-to-end) # begins no case after eight minutes
        section end-to-end 580 "$PYTHON" -m benchmarks.run end-to-end --device "$DEVICE" --set "$SET" --repetitions 3 \
            --budget 4 --minutes 8 --out "$OUT"
        ;;
    batches)
        section batches 300 "$PYTHON" -m benchmarks.run batches --device "$DEVICE" --shape "$BATCHED" --lengths 8 128 \
            --repetitions 3 --out "$OUT"
        ;;
    memcheck)
        if [ "$DEVICE" = cpu ] || ! command -v compute-sanitizer >/dev/null; then
            printf '\n== memcheck\nNot run: it needs a GPU and compute-sanitizer, and this machine has not both.\n'
            continue
        fi
        for tool in memcheck racecheck; do
            # Without the caching allocator a tensor's end is the end of its allocation.
            PYTORCH_NO_CUDA_MEMORY_CACHING=1 section "$tool" 240 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                "${pytest[@]}" -x tests/test_ops_backends.py -k "triton and (dtypes or strided or lengths)"
        done
        ;;
    esac
done

if [ ${#failed[@]} -gt 0 ]; then
    echo "Failed: ${failed[*]}"
    exit 1
fi
