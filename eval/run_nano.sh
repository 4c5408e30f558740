#!/bin/sh
# Measures the embedded pair on the two sets of real photos and renews eval/results/nano. Usage:
#   CLIPSAM_DATA_DIR=DIR sh eval/run_nano.sh [WORK]
# DIR holds mvtec_ad/ and industrial/. WORK keeps what is finished, so that an interrupted run goes on; remove it
# after a change of the code or of the weights. About an hour and a half on two idle cores, most of it for what is varied;
# 3 GB of maps lie in WORK while they are checked, and the check takes 6 GB of memory.
set -eu
data=${CLIPSAM_DATA_DIR:?the folder that holds mvtec_ad and industrial}
work=${1:-clipsam-eval-nano}
here=$(dirname "$0")
results=$here/results/nano

measure() { # name, root, layout: the whole test set, its tables proven from the maps alone
    clipsam eval --preset nano --dataset "$3" --root "$2" --out "$work/$1" --dump-maps --workers 2 >"$results/$1.txt"
    cp "$work/$1/metrics.json" "$results/$1.json"
    cp "$work/$1/figures/curves.png" "$results/$1_curves.png"
    cp "$work/$1/figures/defects.png" "$results/$1_defects.png"
    python "$here/../tests/reproduce_table.py" "$work/$1" "$2" >"$results/$1_reproduced.txt"
    rm -r "$work/$1/maps"
}

beside() { # name, root, layout: with good photos as references, and the batch as its own
    for how in "references 4" "references 16" "consensus"; do
        to=$1_$(echo "$how" | tr ' ' _)
        # shellcheck disable=SC2086
        clipsam eval --preset nano --dataset "$3" --root "$2" --out "$work/$to" --$how --no-figures --workers 2 \
            >"$results/$to.txt"
        cp "$work/$to/metrics.json" "$results/$to.json"
    done
}

vary() { # name, root, layout: one part changed at a time, and changed photos, on a sample of the photos
    clipsam eval --preset nano --dataset "$3" --root "$2" --out "$work/$1_variations" --limit 8 --no-figures \
        --ablate prompts --ablate attention --ablate sam --ablate fusion --perturb rotation --perturb hue \
        --perturb saturation --perturb brightness --perturb noise --perturb blur --perturb jpeg --workers 2 \
        >"$results/$1_variations.txt"
    cp "$work/$1_variations/comparison.csv" "$results/$1_variations.csv"
}

mkdir -p "$results"
measure mvtec_bottle "$data/mvtec_ad" mvtec
measure industrial "$data/industrial" folder
beside mvtec_bottle "$data/mvtec_ad" mvtec
beside industrial "$data/industrial" folder
vary mvtec_bottle "$data/mvtec_ad" mvtec
vary industrial "$data/industrial" folder
