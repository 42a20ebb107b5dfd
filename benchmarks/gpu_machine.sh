#!/bin/sh
# Tests and benchmarks on a machine with a GPU and no package registry, from a checkout and the parts that
# benchmarks/pack_wheels.py made:   gpu_machine.sh test|bench|all [WHEELS] [OUT] [SECTION…]
# Results: OUT/gpu-tests.xml, OUT/gpu-tests.log, OUT/gpu.json, OUT/gpu-bench.log, and where pytest-cov is installed the
# coverage of the code that runs on a GPU alone, OUT/gpu-coverage.txt and .json. Without WHEELS the environment that is
# active must hold onnxruntime-gpu and edgeship's needs. Exits with the last failure.
set -u
what=$1 wheels=${2:-.wheels} out=${3:-build/gpu}
[ $# -ge 3 ] && shift 3 || shift $#
site=${SITE:-/tmp/edgeship-site}
mkdir -p "$out"
if [ -d "$wheels" ]; then
    sh benchmarks/unpack_wheels.sh "$wheels" "$site" || exit
    export PYTHONPATH="$PWD/src:$site${PYTHONPATH:+:$PYTHONPATH}"
fi
# CUDA and cuDNN of the vendor's packages, for the parts that do not load them themselves.
libraries=$(python3 - <<'PY'
import importlib.util
from pathlib import Path
found = importlib.util.find_spec("nvidia")
places = [Path(place) for place in (found.submodule_search_locations or [])] if found else []
print(":".join(str(folder) for place in places for folder in sorted(place.glob("*/lib"))))
PY
)
echo "with the library path unset:"
python3 -c 'from edgeship import engines; print(engines.get("onnxruntime").probe())
import tempfile, pathlib, sys
sys.path[:0] = ["tests/gpu", "tests/unit/engines"]
from gpu_models import convolutions, images
with tempfile.TemporaryDirectory() as place:
    path = convolutions(pathlib.Path(place) / "net.onnx")
    with engines.get("onnxruntime").open(path, engines.OpenOptions(device="cuda:0", cuda_graph=True)) as runner:
        print("opened on CUDA, graph:", runner.cuda_graph, runner.infer(images(1))["logits"].shape)' 2>&1 | tail -5
export LD_LIBRARY_PATH="$libraries${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
status=0
if [ "$what" = test ] || [ "$what" = all ]; then
    measure=
    if python3 -c 'import pytest_cov' 2>/dev/null; then
        measure="--cov=edgeship --cov-report="
        export COVERAGE_FILE="$out/.coverage"
    fi
    # shellcheck disable=SC2086
    timeout 400 python3 -m pytest tests/gpu -m gpu -o filterwarnings=default -p no:cacheprovider -q \
        --durations=8 --junitxml="$out/gpu-tests.xml" $measure >"$out/gpu-tests.log" 2>&1 || status=$?
    tail -n 40 "$out/gpu-tests.log"
    if [ -n "$measure" ]; then
        only_gpu=$(printf '*/edgeship/%s,' engines/cuda.py engines/ort/cuda.py engines/ort/session.py \
            engines/trt/buffers.py engines/trt/buffers.py prepare/activations_cuda.py prepare/baseline.py prepare/parity.py)
        python3 -m coverage report -m --include="$only_gpu" >"$out/gpu-coverage.txt" 2>&1
        python3 -m coverage json -q --include="$only_gpu" -o "$out/gpu-coverage.json"
        cat "$out/gpu-coverage.txt"
    fi
fi
if [ "$what" = bench ] || [ "$what" = all ]; then
    [ $# -gt 0 ] && only="--only $*" || only=
    # shellcheck disable=SC2086
    python3 -u benchmarks/gpu.py --out "$out/gpu.json" --work "${WORK:-/tmp/edgeship-gpu}" --limit-s "${LIMIT_S:-560}" \
        $only >"$out/gpu-bench.log" 2>&1 || status=$?
    tail -n 60 "$out/gpu-bench.log"
fi
exit $status
