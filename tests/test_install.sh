#!/bin/sh
# Installs BUILD into a folder of its own and uses it from outside the tree: headers, both libraries, pkg-config, symbols,
# the command; then uninstalls. Prints one line a check, and how many passed and failed.
set -u
[ $# -eq 1 ] || { echo "usage: tests/test_install.sh BUILD" >&2; exit 2; }
build=$1
cd "$(dirname "$0")/.."
tree=$(pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=$work/usr
make=${MAKE:-make}
cc=${CC:-gcc}
unset MAKEFLAGS MFLAGS MAKELEVEL GNUMAKEFLAGS
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
        echo "not ok $name: $(tail -n 3 "$work/log" | tr '\n' ' ' | cut -c 1-300)"
        failed=$((failed + 1))
    fi
}

run_make()
{
    "$make" --no-print-directory BUILD="$build" "$@"
}

installed_files()
{
    (cd "$1" && find . -type f -o -type l | sort)
}

# Headers that brim.h does not include (*_.h and others), kernels and sources stay at home; modes do not depend on who built.
only_public_files()
{
    for file in bin/brim lib/libbrim.a lib/libbrim.so lib/libbrim.so.9 lib/pkgconfig/brim.pc include/brim/brim.h \
        share/man/man1/brim.1 share/bash-completion/completions/brim \
        share/zsh/site-functions/_brim share/doc/brim/LICENSE share/doc/brim/docs/memory.md share/doc/brim/examples/llama.c; do
        [ -e "$prefix/$file" ] || { echo "missing $file"; return 1; }
    done
    for plugin in "$build"/libbrim-mpi*.so; do # where they were built
        [ ! -e "$plugin" ] || [ -e "$prefix/lib/${plugin##*/}" ] || { echo "missing ${plugin##*/}"; return 1; }
    done
    internal=$(installed_files "$prefix" | grep -v "/share/doc/brim/examples/" | grep -E '_\.h$|/kernels/|\.c$')
    [ -z "$internal" ] || { echo "internal: $internal"; return 1; }
    odd=$(find "$prefix/include" -type f ! -perm 644)
    [ -z "$odd" ] || { echo "not mode 644: $odd"; return 1; }
}

pc()
{
    PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config "$@" brim
}

warnings="-Wall -Wextra -Wpedantic -Werror"

compile_shared()
{
    # shellcheck disable=SC2046,SC2086
    $cc -std=c11 $warnings $(pc --cflags) "$tree/examples/$1.c" -o "$work/$1-shared" $(pc --libs) -lm
}

# The static library by its full name, and what it needs in turn.
compile_static()
{
    libs=$(pc --static --libs | sed 's/-lbrim/-l:libbrim.a/')
    # shellcheck disable=SC2046,SC2086
    $cc -std=c11 $warnings $(pc --cflags) "$tree/examples/$1.c" -o "$work/$1-static" $libs
}

# Each public header compiles when it is the only one.
headers_alone()
{
    compiler=$1
    extension=$2
    shift 2
    (cd "$prefix/include/brim" && find . -name '*.h') | sed 's|^\./||' | sort >"$work/headers"
    while read -r header; do
        printf '#include <%s>\nint nothing_else;\n' "$header" >"$work/alone.$extension"
        # shellcheck disable=SC2046
        "$compiler" "$@" -fsyntax-only $(pc --cflags) "$work/alone.$extension" || { echo "$header"; return 1; }
    done <"$work/headers"
}

# nm's output without the symbols that are ours; what the linker adds to every shared object is no one's.
foreign_symbols()
{
    foreign=$(nm "$@" | awk 'NF == 3 { print $3 }' | grep -v -E '^(brim_|_init$|_fini$|_edata$|_end$|__bss_start$)' | sort -u)
    [ -z "$foreign" ] || { echo "$(echo "$foreign" | wc -l) of them: $(echo "$foreign" | head -n 5 | tr '\n' ' ')"; return 1; }
}

# Whatever a header declares, both libraries have.
declared_is_defined()
{
    cat "$prefix"/include/brim/*/*.h | grep -v '^ *\*' | sed -n 's/^#define [a-z_0-9]* \(brim_[a-z_0-9]*\)$/\1/p' | sort -u >"$work/declared"
    [ -s "$work/declared" ] || { echo "no declarations found"; return 1; }
    nm "$@" | awk 'NF == 3 { print $3 }' | sort -u >"$work/defined"
    missing=$(comm -23 "$work/declared" "$work/defined")
    [ -z "$missing" ] || { echo "declared only: $(echo "$missing" | head -n 5 | tr '\n' ' ')"; return 1; }
}

run_program()
{
    LD_LIBRARY_PATH=$prefix/lib OMP_WAIT_POLICY=passive "$@" >"$work/out" 2>&1 || { cat "$work/out"; return 1; }
    grep -q ' 0 bytes apart' "$work/out" || { echo "planned and measured peaks differ"; return 1; }
}

# A small model with a tokenizer beside it, fine-tuned: the adapter names its base, changes with every step, and is read.
adapter_is_trained()
{
    fixtures=$tree/tests/tokenizers/fixtures
    cat >"$work/small.json" <<'TXT'
{"model_type": "llama", "vocab_size": 500, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
 "intermediate_size": 96, "max_position_embeddings": 64}
TXT
    "$prefix/bin/brim" train --model "$work/small.json" --data "$fixtures/train.txt" --tokenizer "$fixtures/train.json" \
        --batch 1 --seq 64 --steps 1 --export "$work/model" --quiet || return 1
    for steps in 1 3; do
        run_program "$1" "$work/model" "$fixtures/train.txt" "$work/adapter-$steps" $steps || return 1
        grep -q "\"base_model_name_or_path\": \"$work/model\"" "$work/adapter-$steps/adapter_config.json" ||
            { echo "adapter_config.json names another base"; return 1; }
    done
    ! cmp -s "$work/adapter-1/adapter_model.safetensors" "$work/adapter-3/adapter_model.safetensors" ||
        { echo "steps change nothing"; return 1; }
    "$prefix/bin/brim" generate --init "$work/model" --adapter "$work/adapter-3" --quantize nf4 --tokens 3 >"$work/out" &&
        grep -q "^Adapter: $work/adapter-3" "$work/out"
}

not_linked()
{
    ! ldd "$1" | grep -q libbrim
}

staged_is_the_same()
{
    run_make install PREFIX=/usr DESTDIR="$work/stage" &&
        [ "$(installed_files "$work/stage/usr")" = "$(installed_files "$prefix")" ] &&
        grep -qx 'prefix=/usr' "$work/stage/usr/lib/pkgconfig/brim.pc" &&
        run_make uninstall PREFIX=/usr DESTDIR="$work/stage" && nothing_left "$work/stage/usr"
}

nothing_left()
{
    left=$(installed_files "$1")
    [ -z "$left" ] || { echo "left: $left"; return 1; }
    [ ! -e "$1/include/brim" ] && [ ! -e "$1/share/doc/brim" ] || { echo "empty folders are left"; return 1; }
}

someone_elses_file_stays()
{
    mkdir -p "$prefix/include/brim" && echo mine >"$prefix/include/brim/mine" &&
        run_make uninstall PREFIX="$prefix" && [ -e "$prefix/include/brim/mine" ] && rm -r "$prefix/include/brim"
}

check "install" run_make install PREFIX="$prefix"
check "only public files" only_public_files
check "pkg-config version" sh -c "[ \"\$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --modversion brim)\" = \
    \"\$($prefix/bin/brim --version | grep -oE '[0-9]+\.[0-9]+\.[0-9]+' | head -n 1)\" ]"
for example in llama own_module own_op qlora; do
    check "$example.c, shared" compile_shared $example
    check "$example.c, static" compile_static $example
done
check "shared llama runs" run_program "$work/llama-shared" 2
check "static llama runs" run_program "$work/llama-static" 2
check "static own_module runs" run_program "$work/own_module-static" 3
check "shared qlora trains an adapter" adapter_is_trained "$work/qlora-shared"
check "static program needs no libbrim.so" not_linked "$work/llama-static"
check "each header alone, C11" headers_alone "$cc" c -std=c11 $warnings
if command -v g++ >/dev/null; then
    check "each header alone, C++" headers_alone g++ cpp $warnings
    check "brim.h, C++98 too" sh -c "echo '#include <brim.h>' >'$work/old.cpp' && \
        g++ -std=gnu++98 -fsyntax-only -I'$prefix/include/brim' '$work/old.cpp'"
fi
check "libbrim.so exports brim_* only" foreign_symbols -D --defined-only "$prefix/lib/libbrim.so"
check "libbrim.a exports brim_* only" foreign_symbols -g --defined-only "$prefix/lib/libbrim.a"
check "libbrim.so has what headers declare" declared_is_defined -D --defined-only "$prefix/lib/libbrim.so"
check "libbrim.a has what headers declare" declared_is_defined -g --defined-only "$prefix/lib/libbrim.a"
check "soname" sh -c "readelf -d '$prefix/lib/libbrim.so' | grep -q 'SONAME.*libbrim.so.9\]'"
check "DESTDIR" staged_is_the_same
check "uninstall" run_make uninstall PREFIX="$prefix"
check "nothing is left" nothing_left "$prefix"
check "uninstall spares what is not ours" someone_elses_file_stays

echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
