#!/bin/sh
# Trains small models, writes their report pages, and uses each in headless Chromium: drawn, hovered, walked along by
# keyboard, wide and narrow, light and dark, one run and two; no error, nothing loaded. Prints one line a check.
# Usage: tests/html_headless.sh BUILD [FOLDER]; with FOLDER pages and screenshots stay there to be looked at.
# Without a browser it says so, in the file that BRIM_SKIPPED names too, and succeeds.
set -u
[ $# -ge 1 ] || { echo "usage: tests/html_headless.sh BUILD [FOLDER]" >&2; exit 2; }
cd "$(dirname "$0")/.."
brim=$1/brim
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)
skip() { echo "report page: skipped: $*" | tee -a "${BRIM_SKIPPED:-/dev/null}"; exit 0; }
[ -n "$browser" ] || skip "no chromium (apt-get install --no-install-recommends chromium)"
"$brim" report --help 2>/dev/null | grep -q -e --html || skip "$brim has no report --html"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
keep=${2:-$work}
mkdir -p "$keep"
passed=0 failed=0

ok() { echo "ok $1"; passed=$((passed + 1)); }
not_ok() { echo "not ok $1: $2"; failed=$((failed + 1)); }

# The page with a collector of errors before its script and the probe behind it.
with_probe()
{
    sed '0,/<head>/s//<head><script>window.probeErrors=[];for(const t of ["error","unhandledrejection"])addEventListener(t,e=>probeErrors.push(String(e.message||e.reason||e.type)));<\/script>/' "$1" |
        grep -v -x -e '</body>' -e '</html>'
    printf '<script>window.probeCut = %s;</script><script>\n' "${cut:-0}"
    cat "${probe:-tests/html_probe.js}"
    printf '</script></body></html>\n'
}

# PAGE WIDTH: a page to open instead. A window is at least 500 pixels wide; a frame in it can be narrower, and passes on
# what its probe says.
framed()
{
    if [ "$2" -ge 500 ]; then echo "$1"; return; fi
    printf '<!doctype html><body style="margin:0"><iframe src="file://%s" style="border:0;width:%spx;height:100vh"></iframe><pre id="probe"></pre><script>onmessage=e=>{document.querySelector("pre").textContent=e.data}</script>' \
        "$1" "$2" >"$work/frame.html"
    echo "$work/frame.html"
}

# NAME PAGE WIDTH [FLAGS…]
browse()
{
    name=$1 page=$2 width=$3
    shift 3
    with_probe "$page" >"$work/probe.html"
    opened=$(framed "$work/probe.html" "$width")
    timeout 120 "$browser" --headless --no-sandbox --disable-dev-shm-usage --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
        --enable-logging=stderr --v=0 --virtual-time-budget=20000 --window-size="$width,1200" "$@" \
        --dump-dom "file://$opened" >"$work/dom" 2>"$work/err"
    sed -n '/<pre id="probe">/,/end of probe/p' "$work/dom" | sed 's/.*<pre id="probe">//; /^end of probe/d; s/&gt;/>/g; s/&amp;/\&/g' |
        sed "s/^ok /ok $name: /; s/^not ok /not ok $name: /" >"$work/lines"
    cat "$work/lines"
    passed=$((passed + $(grep -c '^ok ' "$work/lines")))
    failed=$((failed + $(grep -c '^not ok ' "$work/lines")))
    if grep -q 'end of probe' "$work/dom"; then ok "$name: ran to its end"; else not_ok "$name: ran to its end" "$(tail -n 3 "$work/err" | tr '\n' ' ')"; fi
    if grep -q 'CONSOLE' "$work/err"; then not_ok "$name: the console is empty" "$(grep -m 3 CONSOLE "$work/err" | tr '\n' ' ')"; else ok "$name: the console is empty"; fi
}

# NAME PAGE WIDTH HEIGHT [FLAGS…]: a picture, which must not be of one colour (its file would be tiny).
picture()
{
    name=$1 opened=$(framed "$2" "$3") size=$3,$4
    shift 4
    timeout 120 "$browser" --headless --no-sandbox --disable-dev-shm-usage --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" \
        --virtual-time-budget=4000 --window-size="$size" "$@" --screenshot="$keep/$name.png" "file://$opened" >/dev/null 2>&1
    bytes=$(wc -c <"$keep/$name.png" 2>/dev/null || echo 0)
    if [ "$bytes" -gt 30000 ]; then ok "picture $name"; else not_ok "picture $name" "$bytes bytes"; fi
}

train() { log=$1; shift; "$brim" train --quiet --log "$keep/$log.jsonl" "$@" >/dev/null 2>"$work/err" || not_ok "training $log" "$(cat "$work/err")"; }
page() { out=$1; shift; "$brim" report "$@" --html "$keep/$out.html" >"$work/err" 2>&1 || not_ok "page $out" "$(cat "$work/err")"; }

train plain --batch 4 --steps 60 --evaluate-every 20
train blocks --batch 4 --steps 4 --checkpoint blocks
train gpt2 --model gpt2-tiny --batch 2 --steps 2
train many --batch 1 --seq 16 --accumulate 24 --steps 2
# Ranks, planned: no process is started.
ranks() { log=$1; shift; "$brim" plan --ranks 4 --batch 2 --log "$keep/$log.jsonl" "$@" >/dev/null 2>"$work/err" || not_ok "planning $log" "$(cat "$work/err")"; }
ranks zero3 --parallel zero3 --gather block
ranks 1f1b --stages 4 --accumulate 6
ranks gpipe --stages 4 --accumulate 6 --pipeline gpipe
ranks ddp --stages 2 --parallel ddp --ranks 20 --accumulate 3
# On the made-up card, where it is built; beside another program, in a container.
[ ! -e "$1/stand-in/libcuda.so.1" ] || {
    echo '{"model_type": "llama", "vocab_size": 256, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "tie_word_embeddings": true}' >"$keep/card.json"
    export BRIM_CUDA_DRIVER="$1/stand-in/libcuda.so.1" BRIM_CUBLAS="$1/stand-in/libcublas.so.13" BRIM_NVML="$1/stand-in/libnvidia-ml.so.1"
    STAND_IN_CAPABILITY=80 STAND_IN_OTHERS=300 STAND_IN_LIBRARY=8 STAND_IN_NVML=host train card --model "$keep/card.json" --device cuda --batch 8 --seq 64 --max-samples 40 --steps 3
}
# A crash: the end is missing, the last line broken off.
head -c -700 "$keep/plain.jsonl" >"$keep/crashed.jsonl"
cd "$keep" && keep=$PWD && cd - >/dev/null
page one "$keep/plain.jsonl"
page two "$keep/plain.jsonl" "$keep/blocks.jsonl"
page models "$keep/blocks.jsonl" "$keep/gpt2.jsonl"
page many "$keep/many.jsonl"
page crashed "$keep/crashed.jsonl"
[ ! -e "$keep/card.jsonl" ] || page card "$keep/card.jsonl"
page schedules "$keep/1f1b.jsonl" "$keep/gpipe.jsonl"
for log in zero3 1f1b gpipe ddp; do page $log "$keep/$log.jsonl"; done
sed 's/"run":"[0-9a-f]*"/"run":"another"/' "$keep/1f1b.jsonl.rank-2" >"$keep/strange"
mkdir -p "$keep/strange-rank"
cp "$keep"/1f1b.jsonl* "$keep/strange-rank"
mv "$keep/strange" "$keep/strange-rank/1f1b.jsonl.rank-2"
page strange "$keep/strange-rank/1f1b.jsonl"
# Two runs in a file; and each kind of line lost: the page is drawn, and says so.
cat "$keep/blocks.jsonl" "$keep/gpt2.jsonl" >"$keep/both.jsonl"
sed '/"kind":"places"/d' "$keep/blocks.jsonl" >"$keep/lost-names.jsonl"
awk '/"kind":"events"/ && !lost { lost = 1; next } { print }' "$keep/blocks.jsonl" >"$keep/lost-events.jsonl"
sed '/"kind":"step","step":[23],/d' "$keep/blocks.jsonl" >"$keep/lost-steps.jsonl"
sed 's/"rows":\[\[0,/"rows":[["x",7],[0,/' "$keep/blocks.jsonl" >"$keep/lost-rows.jsonl"
for lost in both lost-names lost-events lost-steps lost-rows; do page "$lost" "$keep/$lost.jsonl"; done

# What PyTorch would need.
predict() { out=$1; shift; "$brim" plan --framework pytorch --html "$keep/$out.html" "$@" >/dev/null 2>"$work/err"; [ -s "$keep/$out.html" ] || not_ok "page $out" "$(cat "$work/err")"; }
predict pytorch llama-3.2-1b --precision bf16 --batch 1 --seq 2048 --card h200
predict pytorch-qlora llama-3.1-8b --lora r=16 --weights bf16 --quantize nf4 --kbit-prepare on --checkpoint blocks --batch 2 --seq 1024 --accumulate 2 --card t4
predict pytorch-alone gpt2-tiny --precision fp16 --batch 2 --script loop
predict pytorch-evaluates bert-base --precision bf16-autocast --batch 8 --seq 128 --evaluate 2 --card l4
predict pytorch-tight gpt2 --batch 4 --seq 1024 --budget 7.7GiB

dark=--blink-settings=preferredColorScheme=0
light=--blink-settings=preferredColorScheme=1
browse "one run" "$keep/one.html" 1600 $light
cut=1 # of these only whether all is seen
for width in 360 390 500 1000 1280; do
    browse "one run, $width pixels" "$keep/one.html" $width $dark
    browse "two runs, $width pixels" "$keep/two.html" $width $light
done
for width in 360 1000; do browse "stages, $width pixels" "$keep/1f1b.html" $width $dark; done
browse "zero3, 360 pixels" "$keep/zero3.html" 360 $light
browse "two models, 360 pixels" "$keep/models.html" 360 $light
cut=0
browse "two runs" "$keep/two.html" 1600 $dark
browse "zero3" "$keep/zero3.html" 1600 $light
browse "stages, 1f1b" "$keep/1f1b.html" 1600 $light
browse "stages, gpipe" "$keep/gpipe.html" 1600 $dark
browse "stages, two schedules" "$keep/schedules.html" 1600 $dark
browse "20 ranks" "$keep/ddp.html" 1200 $light
browse "a strange rank" "$keep/strange.html" 1200 $light
grep -q 'class="notice".*rank-2 is of another run' "$work/dom" && ok "a strange rank: says so" || not_ok "a strange rank: says so" "no notice"
browse "many events" "$keep/many.html" 1200 $light
[ ! -e "$keep/card.html" ] || {
    browse "a card" "$keep/card.html" 1600 $light
    meaning=$("$brim" report "$keep/card.jsonl" | sed -n "s/^used: \(.*\)/Used is \1./p" | sed "s/'/.*/g") # a page has another apostrophe
    [ -n "$meaning" ] && grep -q "$meaning" "$work/dom" && ok "a card: in the words of the table" || not_ok "a card: in the words of the table" "$meaning"
    cut=1
    browse "a card, 360 pixels" "$keep/card.html" 360 $dark
    cut=0
}
browse "a crashed run" "$keep/crashed.html" 1200 $light
grep -q 'class="notice"' "$work/dom" && ok "a crashed run: says so" || not_ok "a crashed run: says so" "no notice"
for lost in both lost-names lost-events lost-steps lost-rows; do
    browse "$lost" "$keep/$lost.html" 1200 $light
    grep -q 'class="notice"' "$work/dom" && ok "$lost: says so" || not_ok "$lost: says so" "no notice"
done
probe=tests/html_pytorch_probe.js
browse "PyTorch" "$keep/pytorch.html" 1600 $light
browse "PyTorch, QLoRA" "$keep/pytorch-qlora.html" 1600 $dark
browse "PyTorch without brim" "$keep/pytorch-alone.html" 1200 $light
browse "PyTorch that evaluates" "$keep/pytorch-evaluates.html" 1200 $dark
browse "PyTorch, a tight budget" "$keep/pytorch-tight.html" 1200 $light
cut=1
for width in 360 500 1000; do browse "PyTorch, $width pixels" "$keep/pytorch-qlora.html" $width $dark; done
cut=0
picture pytorch-light "$keep/pytorch.html" 1400 2200 $light
picture pytorch-dark-narrow "$keep/pytorch-qlora.html" 400 3800 $dark
picture one-light "$keep/one.html" 1600 3600 $light
picture one-dark-narrow "$keep/one.html" 400 6400 $dark
[ ! -e "$keep/card.html" ] || picture card-light "$keep/card.html" 1600 1300 $light
picture zero3-light "$keep/zero3.html" 1600 1500 $light
picture 1f1b-dark "$keep/1f1b.html" 1600 1500 $dark
picture two-dark "$keep/two.html" 1600 4800 $dark
picture two-light-narrow "$keep/two.html" 400 8000 $light
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
