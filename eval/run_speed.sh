#!/bin/sh
# Measures speed, memory and growth on an idle machine and renews their files in eval/results. Usage:
#   sh eval/run_speed.sh [PART ...]
# Parts, with their minutes on two idle cores (an estimate): base 1.5, large 2, clean 2, photos 4, memory 2, large_sam 4,
# ray 3, compile 4; all but compile by default. RAY_DATA names folders of photos for ray, else it is left out.
set -eu
here=$(dirname "$0")
results=$here/results

bench() { # name, options
    name=$1
    shift
    clipsam bench "$@" --random-weights --json >"$results/$name.json.new" || return 1
    mv "$results/$name.json.new" "$results/$name.json"
    python -c 'import json, sys; found = json.load(open(sys.argv[1]))
print(*(f"{key} {found[key]:.3f}" for key in ("overhead", "processor_overhead", "overhead_once")))' "$results/$name.json"
}

measure() {
    case $1 in
    base) bench bench_base_sam --preset base --rounds 3 ;;
    large) bench bench_large --preset large --no-sam --rounds 3 ;;
    large_sam) bench bench_large_sam --preset large --rounds 1 ;;
    clean) python "$here/bench_clean.py" --preset base --random-weights --always 3 --out "$results/bench_clean.json" ;;
    photos) python "$here/bench_growth.py" --only photos --out "$results/growth.json" ;;
    memory) python "$here/bench_memory.py" --no-sam --scale 96 --out "$results/bench_memory.json" ;;
    # shellcheck disable=SC2086
    ray) python "$here/bench_ray.py" --data ${RAY_DATA:-} --out "$results/bench_ray.json" ;;
    compile) python "$here/bench_compile.py" --out "$results/bench_compile.json" ;;
    *)
        echo "there is no part $1; see the top of $0" >&2
        exit 1
        ;;
    esac
}

[ $# -gt 0 ] || set -- base large clean photos memory large_sam ${RAY_DATA:+ray}
for part in "$@"; do
    echo "== $part, $(date +%T)"
    measure "$part" || echo "$part failed" >&2
done
