#!/usr/bin/env bash
# What a GPU machine is asked, in one go and without a network: install this checkout beside the torch that is there, run
# the GPU tests and the benchmarks, and leave JSON in $OUT. DEVICE=cpu SHAPE=tiny LENGTHS="2 3" rehearses it anywhere.
set -euo pipefail
PYTHON=${PYTHON:-python3}
OUT=$(mkdir -p "${OUT:-benchmarks/results}" && cd "${OUT:-benchmarks/results}" && pwd)
DEVICE=${DEVICE:-cuda}
SHAPE=${SHAPE:-llava-7b}
LENGTHS=${LENGTHS:-32 128 512}

# The package is used as it is installed: only tests and benchmarks come from the checkout.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$PYTHON" -m pip install --quiet --no-index --no-deps --no-build-isolation --target "$work/site" .
cp -r tests benchmarks pyproject.toml "$work"
cd "$work"
export PYTHONPATH="$work/site" HF_HUB_OFFLINE=1 DEXAR_TEST_DEVICE="$DEVICE"
[ "$DEVICE" = cpu ] || export TRITON_INTERPRET=0

failed=0
"$PYTHON" -m pytest tests/test_devices.py tests/test_ops.py tests/test_golden.py --junitxml="$OUT/tests.xml" || failed=1
# The naive method, which the results are compared with, is run at the shortest length.
# shellcheck disable=SC2086 # LENGTHS is a list
"$PYTHON" -m benchmarks.run --device "$DEVICE" --shape "$SHAPE" --lengths $LENGTHS --naive-lengths ${LENGTHS%% *} \
    --out "$OUT" || failed=1
exit $failed
