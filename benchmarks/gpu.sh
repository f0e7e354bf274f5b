#!/usr/bin/env bash
# What a GPU machine is asked, without a network: tests, then benchmarks, each section a command of its own that ends
# within ten minutes and writes into $OUT as it goes. benchmarks/README.md says what to run in which order.
#
#   make gpu                                 all sections, in their order
#   make gpu ARGS="tests ops"                some: tests ops tune end-to-end batches memcheck
#   make gpu ARGS="ops -- --only Qwen"       what stands behind -- goes to the section's command
#   LIMIT=300 make gpu ARGS=ops              seconds for each section, instead of its own limit
#   FROM=folder make gpu ARGS=ops            go on from the results of an earlier call: nothing is tried or measured twice
#   DEVICE=cpu SHAPE=tiny make gpu           a rehearsal anywhere
set -euo pipefail
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-benchmarks/results}" && cd "${OUT:-benchmarks/results}" && pwd)
DEVICE=${DEVICE:-cuda}
FROM=${FROM:+$(cd "$FROM" && pwd)}
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

[ -z "$FROM" ] || cp --no-clobber "$FROM"/*.{json,log} "$OUT" 2>/dev/null || true

failed=()
section() { # NAME SECONDS COMMAND...: a section that fails, or is cut off, does not keep the others from running
    local name=$1 limit=${LIMIT:-$2} start=$SECONDS status=0
    shift 2
    printf '\n== %s, at most %s s\n' "$name" "$limit"
    timeout --signal=INT --kill-after=20 "$limit" "$@" "${further[@]}" 2>&1 | tee ${FROM:+--append} "$OUT/$name.log" || status=${PIPESTATUS[0]}
    [ "$status" = 0 ] || failed+=("$name")
    [ "$status" != 124 ] || echo "Cut off; with FROM=$OUT the same command does the rest."
    echo "== $name: $((SECONDS - start)) s"
}

# The Triton kernels are what only a GPU can try, so they come first; what needs none is not repeated here.
parallel=()
if "$PYTHON" -c "import xdist" 2>/dev/null; then
    parallel=(--numprocesses $(($(nproc) < 8 ? $(nproc) : 8)) --dist worksteal)
fi
pytest=("$PYTHON" -m pytest -v -p no:cacheprovider)
passed_before() { # SECTION: arguments of pytest, one a line, that leave out what has passed in $FROM
    [ -z "$FROM" ] || sed -nE 's/^\[gw[0-9]+\] \[ *[0-9]+%\] PASSED (.*[^ ]) *$/--deselect=\1/p; s/^(tests.*) PASSED .*/--deselect=\1/p' \
        "$FROM/$1.log" 2>/dev/null
}

for name in "${sections[@]}"; do
    case $name in
    tests)
        for part in kernels engine; do passed_before tests-$part >"$work/tests-$part.txt" || true; done
        section tests-kernels 420 "${pytest[@]}" "${parallel[@]}" tests/test_ops_backends.py -k triton \
            "@$work/tests-kernels.txt" --junitxml="$OUT/tests-kernels.xml"
        section tests-engine 120 "${pytest[@]}" tests/test_devices.py "@$work/tests-engine.txt" \
            --junitxml="$OUT/tests-engine.xml"
        ;;
    ops) section ops 540 "$PYTHON" -m benchmarks.run ops --device "$DEVICE" --set "$SET" --budget 2 ${FROM:+--resume} --out "$OUT" ;;
    tune) section tune 540 "$PYTHON" -m benchmarks.tune --device "$DEVICE" ${FROM:+--resume} --out "$OUT" ;;
    end-to-end) # begins no case after eight minutes
        section end-to-end 580 "$PYTHON" -m benchmarks.run end-to-end --device "$DEVICE" --set "$SET" --repetitions 3 \
            --budget 4 --minutes 8 ${FROM:+--resume} --out "$OUT"
        ;;
    batches)
        section batches 300 "$PYTHON" -m benchmarks.run batches --device "$DEVICE" --shape "$BATCHED" --lengths 8 128 \
            --repetitions 3 ${FROM:+--resume} --out "$OUT"
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
