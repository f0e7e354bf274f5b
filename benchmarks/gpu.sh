#!/usr/bin/env bash
# What a GPU machine is asked, without a network: install this checkout beside the torch that is there, run the GPU tests
# and the benchmarks, print the prediction beside the measurement, and leave everything in $OUT as soon as it is there.
#
#   make gpu                                     all but the tuner
#   SECTIONS="tests ops" make gpu                some of it: tests, ops, end-to-end, batches, sanitizer, tune
#   SECTIONS=ops OPS="--only Qwen" make gpu      further options of a section: TESTS, OPS, END_TO_END, BATCHES, TUNE
#   SECTIONS=end-to-end END_TO_END="--only Qwen" make gpu    some of the answers
#   DEVICE=cpu SHAPE=tiny make gpu               a rehearsal anywhere
set -euo pipefail
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-benchmarks/results}" && cd "${OUT:-benchmarks/results}" && pwd)
DEVICE=${DEVICE:-cuda}
SECTIONS=${SECTIONS:-tests ops end-to-end batches sanitizer}
SET=gpu BATCHED=LLaVA-1.5-7B
[ "${SHAPE:-}" != tiny ] || SET=tiny BATCHED=tiny

# The package is used as it is installed: only tests and benchmarks come from the checkout.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$work/site" .
cp -r tests benchmarks pyproject.toml "$work"
cd "$work"
export PYTHONPATH="$work/site" HF_HUB_OFFLINE=1 DEXAR_TEST_DEVICE="$DEVICE" PYTHONUNBUFFERED=1
TRITON_INTERPRET=0
[ "$DEVICE" != cpu ] || TRITON_INTERPRET=1 # Triton's kernels run on CPU tensors in its interpreter alone
export TRITON_INTERPRET

failed=()
section() { # NAME COMMAND...: a section that fails does not keep the others from running
    local name=$1 start=$SECONDS
    shift
    case " $SECTIONS " in *" $name "*) ;; *) return 0 ;; esac
    printf '\n== %s\n' "$name"
    "$@" || failed+=("$name")
    echo "== $name: $((SECONDS - start)) s"
}

# shellcheck disable=SC2086 # the options of a section are a list
{
    run_tests() {
        local files=() name
        for name in ops ops_backends kernels_compile devices golden; do
            if [ -e "tests/test_$name.py" ]; then files+=("tests/test_$name.py"); else echo "no tests/test_$name.py"; fi
        done
        "$PYTHON" -m pytest -q "${files[@]}" --junitxml="$OUT/tests.xml" ${TESTS:-}
    }
    run_ops() {
        "$PYTHON" -m benchmarks.run ops --device "$DEVICE" --set "$SET" --budget 3 --out "$OUT" ${OPS:-}
    }
    run_end_to_end() { # what is begun within nine minutes; --only takes up the rest
        "$PYTHON" -m benchmarks.run end-to-end --device "$DEVICE" --set "$SET" --repetitions 3 --budget 4 --minutes 9 \
            --out "$OUT" ${END_TO_END:-}
    }
    run_batches() {
        "$PYTHON" -m benchmarks.run batches --device "$DEVICE" --shape "$BATCHED" --lengths 8 128 --repetitions 3 \
            --out "$OUT" ${BATCHES:-}
    }
    run_sanitizer() {
        if [ "$DEVICE" = cpu ] || ! command -v compute-sanitizer >/dev/null; then
            echo "Not run: it needs a GPU and compute-sanitizer, and this machine has not both."
            return 0
        fi
        local tool ok=0
        for tool in memcheck racecheck; do
            # Without the caching allocator a tensor's end is the end of its allocation.
            PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool "$tool" --error-exitcode 9 \
                --log-file "$OUT/$tool.txt" "$PYTHON" -m pytest -q -x -p no:cacheprovider tests/test_ops_backends.py \
                -k "triton and (dtypes or strided or lengths)" || ok=1
            tail -n 1 "$OUT/$tool.txt"
        done
        return $ok
    }
    run_tune() {
        "$PYTHON" -m benchmarks.tune --device "$DEVICE" --out "$OUT" ${TUNE:-}
    }
}

section tests run_tests
section ops run_ops
section end-to-end run_end_to_end
section batches run_batches
section sanitizer run_sanitizer
section tune run_tune

if [ ${#failed[@]} -gt 0 ]; then
    echo "Failed: ${failed[*]}"
    exit 1
fi
