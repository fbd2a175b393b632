#!/bin/sh
# The manual page, `brim help` and the completions say the same as the command. Usage: tests/test_docs.sh BUILD
# Prints one line a check, and how many passed and failed.
set -u
[ $# -eq 1 ] || { echo "usage: tests/test_docs.sh BUILD" >&2; exit 2; }
cd "$(dirname "$0")/.."
case $1 in /*) brim=$1/brim ;; *) brim=$(pwd)/$1/brim ;; esac
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# check NAME COMMAND…: ok when the command succeeds; why not is the end of what it printed.
check()
{
    name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        echo "ok $name"
        passed=$((passed + 1))
    else
        echo "not ok $name: $(tail -n 5 "$work/log" | tr '\n' ' ' | cut -c 1-300)"
        failed=$((failed + 1))
    fi
}

same()
{
    diff "$1" "$2" && [ -s "$2" ]
}

# ---- Lists: of the command, of the page -------------------------------------------------------
{ "$brim" help options; "$brim" help report; "$brim" help tokenize; } | grep -oE '^  --[a-z0-9-]+' | tr -d ' ' | sort -u >"$work/options"
"$brim" help | awk '/^options/ { exit } /^  [a-z]/ { print $1 }' | sort >"$work/commands"
for command in $(cat "$work/commands"); do
    "$brim" help "$command" | grep -oE '^  --[a-z0-9-]+' | tr -d ' ' >"$work/help-$command"
done
cat "$work"/help-* | sort -u >"$work/help-options"
sed -n 's/^\.It Fl -\([a-z0-9-]*\).*/--\1/p' docs/brim.1 | sort -u >"$work/page-options"
sed -n '/^\.Sh DESCRIPTION/,/^\.Sh OPTIONS/s/^\.It Cm \([a-z]*\).*/\1/p' docs/brim.1 | sort -u >"$work/page-commands"

check "the page has the options of the command" same "$work/options" "$work/page-options"
check "the page has the commands" same "$work/commands" "$work/page-commands"
check "each option belongs to a command" same "$work/options" "$work/help-options"

# An option of one command is on no other's page.
own_options()
{
    "$brim" help options | sed -n 's/^  \(--[a-z0-9-]*\) .*\[\([a-z]*\)\]$/\1 \2/p' >"$work/own"
    [ -s "$work/own" ] || return 1
    while read -r option command; do
        [ "$(cd "$work" && grep -lxe "$option" help-* | grep -vE 'help-(options|report|tokenize)')" = "help-$command" ] ||
            { echo "$option is not on the page of $command alone"; return 1; }
    done <"$work/own"
}
check "options of one command" own_options

# The examples of help and the page are commands that plan without an error, with a run made short.
examples()
{
    for command in $(cat "$work/commands"); do
        "$brim" help "$command" | sed -n '/^examples/,$s/^  brim \(.*\)/\1/p'
    done >"$work/examples"
    sed -n 's/^\.Dl brim //p' docs/brim.1 >>"$work/examples"
    sed 's/  .*//' "$work/examples" | grep -vE '^(report|tokenize|help|version|models|gpus)|config.json|fashion-mnist|--init' |
        sed 's/^\(train\|demo\)/plan/; s/--\(log\|save\|resume\) [^ ]*//g; s/--run [0-9]*//' >"$work/plans"
    [ "$(wc -l <"$work/plans")" -ge 8 ] || return 1
    while read -r line; do
        # shellcheck disable=SC2086
        "$brim" $line >/dev/null 2>"$work/err"
        code=$?
        # 1 without a complaint is an answer: it does not fit.
        [ $code -eq 0 ] || { [ $code -eq 1 ] && ! grep -q 'unknown\|cannot' "$work/err"; } ||
            { echo "brim $line: $(cat "$work/err")"; return 1; }
    done <"$work/plans"
}
check "examples run" examples

# The names of optimizers: as the command lists them, in the order of their table.
optimizers()
{
    "$brim" plan --optimizer none 2>&1 | sed "s/.*one of \(.*\), not.*/\1/; s/,//g" | tr ' ' '\n' >"$work/rules"
    [ "$(wc -l <"$work/rules")" -ge 6 ] || return 1
    sed -n '/^\.It Fl -optimizer Ar/,/^\.It Fl -lr/s/^\.Cm \([a-z0-9-]*\).*/\1/p' docs/brim.1 | diff "$work/rules" - || return 1
    "$brim" help options | sed -n 's/^  --optimizer NAME *//p' |
        sed 's/sgd\[\(-[a-z]*\)|\([a-z]*\)\]/sgd sgd\1 sgd-\2/; s/adam\[w\]\[8bit\]/adam adamw adam8bit adamw8bit/' | tr ' ' '\n' | diff "$work/rules" - || return 1
    for file in tools/completion/brim.bash tools/completion/_brim; do
        sed -n 's/.*--optimizer) [a-z_]* \("$typed" "\)*\([a-z0-9 -]*\).*/\2/p' "$file" | tr ' ' '\n' | sed '/^$/d' | diff "$work/rules" - || return 1
    done
}
check "the names of optimizers" optimizers

# What CONTRIBUTING.md sends people to is there. Words in capitals stand for a name.
recipes()
{
    grep -o '`[a-zA-Z_/.-]*/[a-zA-Z_/.-]*`' CONTRIBUTING.md | tr -d '`' | grep -v '[A-Z][A-Z][A-Z]' | sort -u >"$work/recipes"
    [ "$(wc -l <"$work/recipes")" -gt 40 ] || return 1
    while read -r file; do
        [ -e "$file" ] || { echo "CONTRIBUTING.md names $file"; return 1; }
    done <"$work/recipes"
}
check "the files of the recipes" recipes

# Every option is in one group, and the groups together are all options.
groups()
{
    "$brim" help | awk '/^options/ { groups = 1; next } groups && /^  [a-z]/ { print $1 }' >"$work/groups"
    [ "$(wc -l <"$work/groups")" -ge 6 ] || return 1
    for group in $(cat "$work/groups"); do "$brim" help "$group"; done | grep -oE '^  --[a-z0-9-]+' | tr -d ' ' | sort >"$work/grouped"
    for command in $(grep -vE 'report|tokenize' "$work/commands"); do cat "$work/help-$command"; done | sort -u | diff - "$work/grouped"
}
check "each option is in one group" groups

# The first page fits a terminal of 24 rows, one of which is the prompt's.
short()
{
    [ "$("$brim" help | wc -l)" -le 23 ]
}
check "help in 24 rows" short

# The glossary of the documents, without its markup.
words()
{
    "$brim" help words >"$work/words"
    sed 's/[*`]//g; s/^#* *//' docs/glossary.md | diff - "$work/words" && [ "$(wc -l <"$work/words")" -gt 80 ]
}
check "help words is the glossary" words

# A terminal of 80 columns shows every line whole.
narrow()
{
    { "$brim" help; for page in options words $(cat "$work/commands" "$work/groups"); do "$brim" help "$page"; done; } |
        LC_ALL=C.UTF-8 awk 'length($0) > 80 { print; wide = 1 } END { exit wide }'
}
check "help in 80 columns" narrow

unknown_command()
{
    "$brim" help nonsense >"$work/out" 2>"$work/err"
    [ $? -eq 2 ] && [ ! -s "$work/out" ] && grep -q "unknown command or group 'nonsense'" "$work/err" &&
        ! "$brim" help trian 2>"$work/err" && grep -q 'nearest: train' "$work/err" &&
        ! "$brim" plna 2>"$work/err" && grep -q "unknown command 'plna'; nearest: plan" "$work/err"
}
check "help of no command" unknown_command

# ---- The page's own form -----------------------------------------------------------------------
lint()
{
    mandoc -Tlint -W warning docs/brim.1
}
warnings()
{
    LC_ALL=C.UTF-8 man --warnings -E UTF-8 -l -Tutf8 -Z docs/brim.1 2>"$work/warnings" >/dev/null &&
        [ ! -s "$work/warnings" ]
}
if command -v mandoc >/dev/null; then check "mandoc finds nothing" lint; fi
if command -v man >/dev/null && command -v groff >/dev/null; then check "man finds nothing" warnings; fi

# ---- Completion --------------------------------------------------------------------------------
# complete_bash WORD… CURRENT: the answers, sorted, a line each.
cat >"$work/complete.bash" <<'TXT'
source tools/completion/brim.bash
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_brim
printf '%s\n' "${COMPREPLY[@]}" | sort -u
TXT

answers()
{
    wanted=$1
    shift
    got=$(bash "$work/complete.bash" "$brim" "$@" | tr '\n' ' ')
    [ "$got" = "$wanted " ] || { echo "after '$*': '$got', not '$wanted '"; return 1; }
}

# The same words as in a file, sorted.
answers_file()
{
    file=$1
    shift
    bash "$work/complete.bash" "$brim" "$@" >"$work/answers"
    sort -u "$file" | diff - "$work/answers"
}

bash_completion()
{
    answers_file "$work/commands" "" && answers_file "$work/help-train" train "" &&
        answers_file "$work/help-fit" fit --batch 2 "" && answers "compare" com &&
        answers "--batch --budget" plan --b && answers "compare" help com && answers "levers" help le && answers "words" help wo &&
        answers "gpt2 gpt2-large gpt2-medium gpt2-tiny gpt2-xl" plan --model gpt2 &&
        answers "gpt2-large" plan --model = gpt2-l && answers "flash" plan --attention = fl &&
        answers "flash" plan --attention f && answers "eager flash sdpa" plan --attention = &&
        answers "auto" train --checkpoint a && answers "adagrad adam adam8bit adamw adamw8bit" train --optimizer ad &&
        answers "cosine" train --schedule cos && answers "bf16 fp16 fp32" train --export-dtype "" &&
        answers "cpu cuda" train --device "" && answers "bytes" train --tokenizer by && answers "keep" train --zero-grad k &&
        answers "bf16" train --weights b && answers "fp32,bf16" compare --weights fp32,b && answers "nf4 nf4-plain" generate --quantize nf &&
        answers "t4,rtx-3060" fit --card t4,rtx-306 && answers "" train --batch "" &&
        answers "docs/memory.md" train --data docs/mem && answers "fashion-mnist" train --data fash &&
        answers "docs/memory.md" train --log docs/mem && answers "docs/memory.md" report docs/mem && answers "--html" report run.jsonl --h &&
        answers "docs/memory.md" report run.jsonl --html docs/mem && answers "--json" models --quiet --j
}
if command -v bash >/dev/null; then check "completion in bash" bash_completion; fi

# A shell on a pseudo-terminal, and the tab key.
cat >"$work/tab.zsh" <<'TXT'
zmodload zsh/zpty
zpty shell zsh -f -i
read_until() { local text=""; while zpty -r shell line; do text+=$line; [[ $text == *$1* ]] && break; done; print -r -- $text; }
zpty -w shell "PS1=; fpath=(\$PWD/tools/completion \$fpath); path=($1 \$path); autoload -U compinit; compinit -u -D; bindkey '^I' complete-word"
zpty -w shell "echo rea''dy"
read_until ready >/dev/null
zpty -w -n shell $2$'\t'$3$'\n'
zpty -w shell "echo do''ne"
read_until done
TXT

zsh_line()
{
    timeout 30 zsh -f "$work/tab.zsh" "$(dirname "$brim")" "$1" "" >"$work/zsh" 2>&1
    grep -q -- "$2" "$work/zsh" || { echo "no '$2' in $(tr -d '\r\n' <"$work/zsh" | tail -c 200)"; return 1; }
}

zsh_completion()
{
    zsh_line "brim mode" "brim models" &&
        zsh_line "brim models --js" "models --json" && zsh_line "brim plan --steps 1 --model gpt2-l" "gpt2-large" &&
        zsh_line "brim fit --model mlp --memory 1GiB --attention fl" "attention flash"
}
# Of each option what stands behind its value, however long that is.
zsh_options()
{
    zsh -fc 'source <(sed "/^_brim \"/d" tools/completion/_brim); _brim_options "$1" train' zsh "$brim" >"$work/described"
    "$brim" help train | sed -nE 's/^  (--[a-z0-9-]+)( [^ ]+)? +(.*)/\1:\3/p' | same - "$work/described" &&
        grep -q '^--export-dtype:data type: f32, f16' "$work/described" && grep -q '^--quiet:print no step lines' "$work/described"
}
if command -v zsh >/dev/null; then
    check "completion in zsh" zsh_completion
    check "options in zsh" zsh_options
fi

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
