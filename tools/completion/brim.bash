# bash completion of brim: commands, options, and what options take. It asks brim itself, so it never lags behind.

# Those of the words that begin with what is typed. Of a comma list only the last part counts.
_brim_words()
{
    local typed=$1 head="" words=$2
    if [[ $typed == *,* ]]; then
        head=${typed%,*},
        typed=${typed##*,}
    fi
    mapfile -t COMPREPLY < <(compgen -P "$head" -W "$words" -- "$typed")
}

# The first column of a table that brim prints, without its heading.
_brim_column()
{
    "$1" "$2" 2>/dev/null | awk 'NR > 1 { print $1 }'
}

_brim_value()
{
    local program=$1 flag=$2 typed=$3
    case $flag in
    --model)
        _brim_words "$typed" "$(_brim_column "$program" models)"
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -X '!*.json' -- "$typed")
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -d -- "$typed")
        ;;
    --card) _brim_words "$typed" "$(_brim_column "$program" gpus)" ;;
    --checkpoint) _brim_words "$typed" "none blocks selective selective+blocks auto reentrant" ;;
    --attention) _brim_words "$typed" "flash eager sdpa" ;;
    --framework) _brim_words "$typed" "brim pytorch" ;;
    --script) _brim_words "$typed" "trainer loop" ;;
    --kbit-prepare) _brim_words "$typed" "off on" ;;
    --resize-vocab) _brim_words "$typed" auto ;;
    --gather) _brim_words "$typed" "op block next" ;;
    --transport) _brim_words "$typed" "mpi nccl" ;;
    --parallel) _brim_words "$typed" "ddp zero1 zero2 zero3 fsdp" ;;
    --reduce) _brim_words "$typed" "ordered library auto" ;;
    --rank) _brim_words "$typed" all ;;
    --device) _brim_words "$typed" "cpu cuda" ;;
    --optimizer) _brim_words "$typed" "sgd sgd-momentum sgd-nesterov rmsprop adagrad adam adamw adam8bit adamw8bit" ;;
    --schedule) _brim_words "$typed" "constant linear cosine" ;;
    --zero-grad) _brim_words "$typed" "free keep" ;;
    --precision) _brim_words "$typed" "fp32 tf32 bf16 bf16-states32 bf16-mixed bf16-autocast fp16-mixed fp16-autocast" ;;
    --grad-dtype) _brim_words "$typed" "16 32" ;;
    --rounding) _brim_words "$typed" "nearest stochastic" ;;
    --loss-scale) _brim_words "$typed" dynamic ;;
    --weights) _brim_words "$typed" "fp32 bf16 fp16" ;;
    --quantize) _brim_words "$typed" "none nf4 nf4-plain int8" ;;
    --invalid-utf8) _brim_words "$typed" "refuse replace" ;;
    --export-dtype) _brim_words "$typed" "fp32 fp16 bf16" ;;
    --data)
        _brim_words "$typed" "builtin fashion-mnist"
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$typed")
        ;;
    --save | --resume | --export | --adapter | --export-adapter) mapfile -t COMPREPLY < <(compgen -d -- "$typed") ;;
    --tokenizer)
        _brim_words "$typed" bytes
        mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(compgen -f -- "$typed")
        ;;
    --init | --log | --train | --out | --html | --torch-snapshot | --trace | --massif | --csv | --jsonl) mapfile -t COMPREPLY < <(compgen -f -- "$typed") ;;
    *) COMPREPLY=() ;; # a number, a size or a text
    esac
}

# Whether the option of a command wants a value: its help shows one after its name.
_brim_takes_value()
{
    "$1" help "$2" 2>/dev/null | grep -qE -- "^  $3 [^ ]"
}

_brim()
{
    local program=${COMP_WORDS[0]} typed=${COMP_WORDS[COMP_CWORD]} flag=""
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        _brim_words "$typed" "$("$program" help 2>/dev/null | awk '/^options/ { exit } /^  [a-z]/ { print $1 }')"
        return
    fi
    # --flag value, --flag=value: the equals sign is a word of its own.
    if [[ $typed == "=" ]]; then
        flag=${COMP_WORDS[COMP_CWORD - 1]} typed=""
    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == "=" ]]; then
        flag=${COMP_WORDS[COMP_CWORD - 2]}
    elif [[ ${COMP_WORDS[COMP_CWORD - 1]} == --* ]]; then
        flag=${COMP_WORDS[COMP_CWORD - 1]}
    fi
    if [[ -n $flag ]] && _brim_takes_value "$program" "${COMP_WORDS[1]}" "$flag"; then
        _brim_value "$program" "$flag" "$typed"
    elif [[ ${COMP_WORDS[1]} == help ]]; then
        ((COMP_CWORD > 2)) ||
            _brim_words "$typed" "options words $("$program" help 2>/dev/null | awk '/^  [a-z]/ { print $1 }')"
    else
        _brim_words "$typed" "$("$program" help "${COMP_WORDS[1]}" 2>/dev/null |
            awk '/^  --/ { print $1 }')"
        [[ ${COMP_WORDS[1]} != report || $typed == -* ]] || mapfile -t COMPREPLY < <(compgen -f -- "$typed")
    fi
}

complete -o filenames -F _brim brim
