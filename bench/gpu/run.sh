#!/usr/bin/env bash
# The GPU check: run.sh [PART…] on a machine with an NVIDIA GPU, in the folder that `cargo xtask gpu` made.
#
# Needs the driver; python3 for the model and its answers; PyTorch for the peers; compute-sanitizer (on PATH or in
# /usr/local/cuda/bin) for the last part. What is missing is told in the result. Parts: kernels conformance model
# bench sanitizer. Writes $OUT/gpu.json (./out by default) and a log of every part; goes on after a part that failed, and
# then ends with status 1.
set -u
cd "$(dirname "$0")" || exit 1
here=$PWD
out=${OUT:-$here/out}
mkdir -p "$out"
export TOKENMILL_REAL_GPU=1 TOKENMILL_FIXTURES=$here/fixtures RUST_BACKTRACE=0
export PATH=$PATH:/usr/local/cuda/bin
# Where a toolkit has cuBLASLt.
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}/usr/local/cuda/lib64
results=() failed=0
# SmolLM2's folder: the real model, or random weights of its geometry.
real=${TOKENMILL_SMOLLM2:-} random=$out/smollm2-135m

has() { command -v "$1" >/dev/null; }

# A string as JSON has it.
quoted() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/ }
    printf '"%s"' "${text//[[:cntrl:]]/ }"
}

# record PART STATUS SECONDS [WORDS]
record() {
    echo "== $1: $2 in $3 s${4:+ ($4)}"
    results+=("$(quoted "$1"): {\"status\": $(quoted "$2"), \"seconds\": $3, \"words\": $(quoted "${4:-}")}")
    [ "$2" = failed ] && failed=1
}

# part NAME SECONDS COMMAND…: runs it within its time, into $OUT/NAME.log; its output also to $OUT/NAME.json if it is that.
part() {
    local name=$1 limit=$2 start=$SECONDS status
    shift 2
    echo "== $name (at most $limit s)"
    timeout -k 5 "$limit" "$@" >"$out/$name.out" 2>"$out/$name.log"
    status=$?
    if [ "$(head -c 1 "$out/$name.out")" = "{" ]; then
        mv "$out/$name.out" "$out/$name.json"
    else
        cat "$out/$name.out" >>"$out/$name.log"
        rm "$out/$name.out"
    fi
    case $status in
        0) record "$name" passed $((SECONDS - start)) "$(grep -h '^test result' "$out/$name.log" | tail -1)" ;;
        124 | 137) record "$name" failed $((SECONDS - start)) "not done within $limit s: $(tail -n 1 "$out/$name.log")" ;;
        *) record "$name" failed $((SECONDS - start)) "status $status: $(tail -n 12 "$out/$name.log")" ;;
    esac
}

skip() { record "$1" skipped 0 "$2"; }

# Every operation against f64 on the CPU.
kernels() { part kernels 90 bin/test-kernels --test-threads=1; }

# The ABI: the suite of `tokenmill backend check` on small models, then the backend's own tests.
conformance() {
    local each known=()
    # Of random weights nobody said what they say.
    [ -n "$real" ] || known=(--skip greedy_tokens_are_those_of_transformers)
    for each in llama-gqa qwen3 gemma3; do
        part "conformance-$each" 25 bin/tokenmill backend check cuda --model "fixtures/models/$each"
    done
    make_model
    for each in bin/test-*; do
        [ "$each" = bin/test-kernels ] && continue
        part "$(basename "$each")" 45 env TOKENMILL_SMOLLM2="${real:-$random}" "$each" --test-threads=1 "${known[@]}"
    done
}

make_model() {
    [ -z "$real" ] && [ ! -f "$random/config.json" ] || return
    has python3 && python3 make_model.py smollm2-135m "$random"
}

# SmolLM2 against transformers, or random weights of its geometry against the CPU backend; then its speed.
model() {
    has python3 || { skip model "no python3"; return; }
    make_model
    if [ -n "$real" ]; then
        part model 90 python3 generation.py bin/tokenmill cuda "$real" fixtures/smollm2
    else
        part model 90 python3 generation.py bin/tokenmill cuda "$random"
    fi
    local sequences
    for sequences in 1 64; do
        part "model-decode-$sequences" 30 bin/tokenmill bench "${real:-$random}" --backend cuda --json \
            --sequences $sequences --prompt 256 --generate 128 --kv-cache-memory-bytes 2000000000
    done
}

# Ours and the peers by turns.
bench() {
    if has python3; then
        part bench 200 python3 peers.py bin/bench_cuda
    else
        part bench 200 bin/bench_cuda
    fi
}

# Out-of-bounds and misaligned addresses, races, barriers, memory that was never written. A module is asked for kernels it
# does not have: no error. For racecheck a barrier of a part of a block orders nothing, nor does what follows it: it
# reports a race in ten lines of CUDA that have none. So the one kernel with such barriers is left to the emulator.
sanitizer() {
    has compute-sanitizer || { skip sanitizer "no compute-sanitizer"; return; }
    local tool flags
    for tool in memcheck racecheck synccheck initcheck; do
        flags=(--tool $tool --report-api-errors no --error-exitcode 9)
        [ $tool = racecheck ] && flags+=(--kernel-name-exclude kns=gemm_small)
        part "sanitizer-$tool" 60 compute-sanitizer "${flags[@]}" bin/test-kernels --test-threads=1
    done
}

machine() {
    local gpu driver cublaslt
    gpu=$(nvidia-smi --query-gpu=name,memory.total,clocks.max.sm,power.limit --format=csv,noheader 2>&1 | head -1)
    driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null | head -1)
    cublaslt=$(readlink -f /usr/local/cuda/lib64/libcublasLt.so)
    printf '{"gpu": %s, "driver": %s, "cublaslt": %s, "cpu": %s, "cores": %s, "kernel": %s}' \
        "$(quoted "$gpu")" "$(quoted "$driver")" "$(quoted "${cublaslt##*/}")" \
        "$(quoted "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)")" "$(nproc)" "$(quoted "$(uname -r)")"
}

# One JSON object of all parts, and the figures of those that print some.
report() {
    local name first=1
    printf '{\n"benchmark": "gpu",\n"machine": %s,\n' "$(machine)"
    printf '"commit": %s,\n"date": "%s",\n' "$(quoted "$(cat commit)")" "$(date -u +%Y-%m-%dT%H:%M:%SZ)"
    printf '"parts": {\n'
    (IFS=$'\n'; echo "${results[*]}") | sed '$!s/$/,/'
    printf '},\n"figures": {\n'
    for name in "$out"/*.json; do
        [ -e "$name" ] && [ "$name" != "$out/gpu.json" ] || continue
        [ $first = 1 ] || printf ',\n'
        first=0
        printf '%s: ' "$(quoted "$(basename "$name" .json)")"
        cat "$name"
    done
    printf '\n}\n}\n'
}

rm -f "$out"/*.json
for each in "${@:-kernels conformance model bench sanitizer}"; do
    for one in $each; do $one; done
done
rm -rf "$random"
report >"$out/.gpu" && mv "$out/.gpu" "$out/gpu.json"
echo "written to $out/gpu.json"
exit $failed
