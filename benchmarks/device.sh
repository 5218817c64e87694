#!/usr/bin/env bash
# Everything that needs a GPU, in at most 13 minutes: tests, a load test of two minutes, then timings against PyTorch.
#
#     benchmarks/device.sh [folder for the results]
#     SOAK=600 benchmarks/device.sh       # seconds of load
#
# Runs from the source tree with the installed packages (numba, numba-cuda, numpy, pytest, hypothesis; torch for the
# comparisons) and downloads nothing. A part that fails is reported, and the others still run.
# PYTHON names the interpreter.
set -u
results=$(realpath -m "${1:-$(dirname "$0")/results}")
python=$(command -v "${PYTHON:-python3}")
case $python in /*) ;; *) python=$PWD/$python ;; esac
cd "$(dirname "$0")/.."
export PYTHONPATH=$PWD NUMBA_CUDA_LOW_OCCUPANCY_WARNINGS=0 PYTHONUNBUFFERED=1
mkdir -p "$results"
if ! "$python" -c 'import sys; from numba_rnnlm import backends; sys.exit("cuda" not in backends.available())'; then
    "$python" -c 'from numba_rnnlm import backends; print("no GPU to measure: it", backends.about()["cuda"])'
    exit 1
fi
failed=()

part() { # name, timeout in seconds, command
    printf '\n== %s\n' "$1"
    local start=$SECONDS
    timeout "$2" "${@:3}" || failed+=("$1 (exit $?)")
    printf -- '-- %s: %s s\n' "$1" $((SECONDS - start))
}

part "computer" 20 "$python" -m numba_rnnlm info
name=$("$python" -c 'import re; from numba_rnnlm import backends; print(re.sub("[^a-z0-9]+", "-", backends.about()["cuda"].split(",")[0].lower()))')
workers=()
"$python" -c "import xdist" 2>/dev/null && workers=(-n 8)
part "tests of the verbs" 80 "$python" -m pytest "${workers[@]}" -p no:cacheprovider -k cuda tests/test_backends.py
part "tests at real sizes" 130 "$python" -m pytest "${workers[@]}" -p no:cacheprovider -m "device or gpu" tests/test_cuda.py
soak=${SOAK:-120}
part "soak: two processes for $soak s, after compiling" $((soak + 160)) \
    "$python" -m benchmarks.soak --seconds "$soak" --processes 2
peer=()
"$python" -c 'import torch; assert torch.cuda.is_available()' 2>/dev/null && peer=(--peer torch)
part "layers" 100 "$python" -m benchmarks.layers "${peer[@]}" --turns 3 --out "$results/layers-$name"
for precision in float32 tf32 bf16; do
    part "training, $precision" 45 "$python" -m benchmarks.training --backend cuda --precision $precision "${peer[@]}" \
        --turns 5 --out "$results/training-$name-$precision"
done

printf '\n'
if [ ${#failed[@]} -gt 0 ]; then
    printf 'failed: %s\n' "${failed[@]}"
    exit 1
fi
echo "all parts ran; results in $results"
