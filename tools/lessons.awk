# Runs the commands of the lessons and fills in what they print, and the figures in prose: see tools/lessons.

FNR == 1 { page = FILENAME; sub(/.*\//, "", page); id = substr(page, 1, 2); count[page] = 0; pages[++page_count] = page }
{ text[page, ++count[page]] = $0 }

function fail(message) {
    print message > "/dev/stderr"
    failed = 1
}

# ---- Commands ---------------------------------------------------------------------------------------

function run(command, key,    line, all, n) {
    all = "{ " command "\n} 2>&1"
    n = 0
    while ((all | getline line) > 0)
        printed[key, ++n] = line
    close(all)
    lines[key] = n
}

# Runs the commands of a page; of each line, what is to be written in its place.
function run_page(page,    i, inside, recorded, line, command, number, key, j) {
    for (i = 1; i <= count[page]; i++) {
        line = text[page, i]
        if (line ~ /^```console/)
            inside = 1
        else if (line ~ /^```text/)
            recorded = 1
        else if (line ~ /^```$/)
            inside = recorded = 0
        else if (inside && line ~ /^\$ /) {
            emit(page, line, 0)
            command = substr(line, 3)
            while (command ~ /\\$/ && i < count[page]) {
                line = text[page, ++i]
                emit(page, line, 0)
                sub(/\\$/, "", command)
                command = command " " line
            }
            key = substr(page, 1, 2) "." (++number)
            run(command, key)
            for (j = 1; j <= lines[key]; j++)
                emit(page, printed[key, j], 0)
            continue
        }
        if (!inside || line ~ /^```console/)
            emit(page, line, !recorded && line !~ /^```/)
    }
}

function emit(page, line, prose) {
    fresh[page, ++fresh_count[page]] = line
    is_prose[page, fresh_count[page]] = prose
}

# ---- What a figure stands for -----------------------------------------------------------------------

# Of a line, the word that ends nearest to where the heading ends that stands above it.
function under_heading(key, row, heading, after,    j, at, end, line, position, word, far, near, best) {
    for (j = row - 1; j >= 1; j--) {
        line = printed[key, j] " "
        if ((at = index(line, " " heading " ")) > 0)
            break
    }
    if (j < 1)
        return "?"
    end = at + length(heading)
    line = printed[key, row]
    position = 0
    near = 1e9
    best = "?"
    while (match(line, /[^ ]+/)) {
        word = substr(line, RSTART, RLENGTH)
        position += RSTART + RLENGTH - 1
        line = substr(line, RSTART + RLENGTH)
        far = position > end ? position - end : end - position
        if (position > after && word ~ /[0-9]/ && far < near) {
            near = far
            best = word
        }
    }
    return best
}

function plain(word) {
    gsub(/[^-+0-9.]/, "", word)
    sub(/\.$/, "", word)
    return word
}

# What stands behind the label in what a command printed: the number-th number, or the one under a heading.
function lookup(page, reference,    part, n, key, from, label, mark, j, rest, word, k, seen, at) {
    n = split(reference, part, "|")
    if (n != 3)
        return "?"
    key = part[1]
    if (key !~ /\./)
        key = substr(page, 1, 2) "." key
    if (!(key in lines))
        return substr(key, 1, 2) == substr(page, 1, 2) ? "?" : "other"
    label = part[2]
    from = 1
    if ((at = index(label, ">")) > 0) {
        mark = substr(label, 1, at - 1)
        label = substr(label, at + 1)
        while (from <= lines[key] && !index(printed[key, from], mark))
            from++
    }
    for (j = from; j <= lines[key]; j++)
        if ((at = index(printed[key, j], label)) > 0) {
            if (part[3] !~ /^[0-9]+$/) {
                word[1] = under_heading(key, j, part[3], at + length(label) - 1)
                return word[1] == "?" ? "?" : plain(word[1])
            }
            rest = substr(printed[key, j], at + length(label))
            n = split(rest, word, /[ \t()]+/)
            for (k = 1; k <= n; k++)
                if (word[k] ~ /[0-9]/ && ++seen == part[3])
                    return plain(word[k])
            return "?"
        }
    return "?"
}

function evaluate(page, expression,    part, n, i, value, operand, operator) {
    n = split(expression, part, / /)
    # Labels hold spaces: references are put together again up to the operators that stand alone.
    value = ""
    operator = "="
    operand = ""
    for (i = 1; i <= n + 1; i++) {
        if (i > n || part[i] ~ /^[-+*\/]$/) {
            if (operand ~ /\|/)
                operand = lookup(page, operand)
            if (operand == "other" || operand == "?")
                return operand
            if (operator == "=") value = operand + 0
            else if (operator == "-") value -= operand
            else if (operator == "+") value += operand
            else if (operator == "*") value *= operand
            else if (operand != 0) value /= operand
            operator = i > n ? "" : part[i]
            operand = ""
        } else
            operand = operand == "" ? part[i] : operand " " part[i]
    }
    return value
}

# With as many decimals as the figure has now, its sign only where it shows one, commas where it has some.
function format(value, like,    decimals, shown, head, tail, grouped) {
    decimals = index(like, ".") ? length(like) - index(like, ".") : 0
    if (like !~ /^-/ && value < 0)
        value = -value
    shown = sprintf("%.*f", decimals, value)
    if (like ~ /,/) {
        head = shown
        sub(/\..*/, "", head)
        tail = substr(shown, length(head) + 1)
        grouped = ""
        while (length(head) > 3) {
            grouped = "," substr(head, length(head) - 2) grouped
            head = substr(head, 1, length(head) - 3)
        }
        shown = head grouped tail
    }
    return shown
}

# ---- Figures in prose -------------------------------------------------------------------------------

# The page's list: of each figure what it is now, "" where no command of these pages says.
function read_figures(page,    i, line, inside, old, reference, value, shown) {
    figures = 0
    for (i = 1; i <= fresh_count[page]; i++) {
        line = fresh[page, i]
        if (line == "<!-- figures") {
            inside = 1
            continue
        }
        if (!inside)
            continue
        if (line ~ /-->$/)
            break
        old = line
        sub(/ .*/, "", old)
        reference = substr(line, length(old) + 1)
        sub(/^ +/, "", reference)
        shown = old
        if (reference != "fixed") {
            value = evaluate(page, reference)
            if (value == "?")
                fail(page ": no command printed " reference)
            else if (value != "other")
                shown = format(value, old)
        }
        if ((page, old) in now && now[page, old] != shown)
            fail(page ": " old " stands for two figures that differ now: " now[page, old] " and " shown)
        if (!((page, old) in now))
            figure[page, ++figures] = old
        now[page, old] = shown
        fresh[page, i] = shown substr(line, length(old) + 1)
        is_prose[page, i] = 0
    }
    figure_count[page] = figures
}

# Every figure of the list, as a whole number, becomes what it is now. What is left with decimals is tied to nothing.
function fill(page, line,    out_line, before, word, start, after, rest) {
    rest = line
    gsub(/<!--[^>]*-->/, "", rest)
    gsub(/`[^`]*`/, " ", rest)
    gsub(/\([^) ]*\.(md|png|svg|c)[^)]*\)/, "", rest)
    gsub(/(arXiv|Llama|llama|CUDA|PyTorch|transformers) [0-9.]+/, "", rest)
    out_line = ""
    while (match(line, /[0-9][0-9.,]*[0-9]|[0-9]/)) {
        word = substr(line, RSTART, RLENGTH)
        before = substr(line, 1, RSTART - 1)
        line = substr(line, RSTART + RLENGTH)
        if ((page, word) in now)
            out_line = out_line before now[page, word]
        else {
            if (word ~ /\./ && index(rest, word))
                print page ": " word " is tied to nothing; tools/lessons says how" > (out "/untied")
            out_line = out_line before word
        }
    }
    return out_line line
}

END {
    for (p = 1; p <= page_count; p++)
        run_page(pages[p])
    for (p = 1; p <= page_count; p++) {
        page = pages[p]
        printf "" > (out "/" page)
        read_figures(page)
        for (i = 1; i <= fresh_count[page]; i++) {
            line = fresh[page, i]
            if (is_prose[page, i])
                line = fill(page, line)
            print line > (out "/" page)
        }
        close(out "/" page)
    }
    exit failed
}
