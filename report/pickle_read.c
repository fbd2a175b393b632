/* The reader of pickles: a stack of values, a memo, and what containers hold, each an array that grows. */
#include <stdarg.h>
#include <string.h>

#include "../memtrack/memtrack.h"
#include "pickle_read_.h"

enum {
    STACK_MOST = 1 << 20, /* values that wait for their container; writers hand on a thousand at a time */
    DICT_MOST = 256,      /* entries: a search goes through them */
    MEMO_AHEAD = 1 << 16, /* of numbers of the memo that are beyond the bytes read so far */
    TEXT_MOST = 1 << 24,
};

/* ---- Arrays ---------------------------------------------------------------------------------- */

int report_pickle_fail_(PickleReader *r, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (r->why_size && !r->failed)
        vsnprintf(r->why, r->why_size, format, arguments);
    va_end(arguments);
    r->failed = 1;
    return -1;
}

static int no_memory(PickleReader *r)
{
    return report_pickle_fail_(r, "out of host memory");
}

/* Room for `more` items behind the array's `count`. */
static int room(PickleReader *r, void *array, size_t *capacity, size_t count, size_t more, size_t item_bytes)
{
    void **items = array;
    if (count + more <= *capacity)
        return 0;
    size_t wanted = (count + more) + (count + more) / 2 + 32;
    void *larger = memtrack_host_realloc(NULL, *items, *capacity * item_bytes, wanted * item_bytes);
    if (!larger)
        return no_memory(r);
    *items = larger;
    *capacity = wanted;
    return 0;
}

#define ROOM(reader, list, more)                                                                             \
    room(reader, &(list)->items, &(list)->capacity, (list)->count, more, sizeof *(list)->items)

static int push(PickleReader *r, PickleValue value)
{
    PickleValues *stack = &r->stack;
    if (stack->count == STACK_MOST)
        return report_pickle_fail_(r, "at byte %llu: more than %d values wait for their container", r->at,
                                   STACK_MOST);
    if (ROOM(r, stack, 1))
        return -1;
    stack->items[stack->count++] = value;
    return 0;
}

/* How many values are above the last mark, which is taken away; SIZE_MAX without a mark. */
static size_t above_mark(PickleReader *r)
{
    if (!r->mark_count) {
        report_pickle_fail_(r, "at byte %llu: a container without its beginning", r->at);
        return SIZE_MAX;
    }
    return r->stack.count - r->marks[--r->mark_count];
}

/* What an opcode takes must be there, and above the last mark. */
static int has(PickleReader *r, size_t count)
{
    size_t floor = r->mark_count ? r->marks[r->mark_count - 1] : 0;
    if (r->stack.count - floor >= count)
        return 0;
    return report_pickle_fail_(r, "at byte %llu: an opcode finds no value", r->at);
}

/* ---- Reading bytes --------------------------------------------------------------------------- */

static int next_byte(PickleReader *r)
{
    int byte = getc(r->in);
    if (byte == EOF)
        return report_pickle_fail_(r, "it ends at byte %llu, before its end", r->read);
    r->read++;
    return byte;
}

static int little_endian(PickleReader *r, int bytes, uint64_t *value)
{
    *value = 0;
    for (int i = 0; i < bytes; i++) {
        int byte = next_byte(r);
        if (byte < 0)
            return -1;
        *value |= (uint64_t)byte << 8 * i;
    }
    return 0;
}

/* ---- Scalars --------------------------------------------------------------------------------- */

static int push_float(PickleReader *r, double value)
{
    PickleFloats *floats = &r->pickle->floats;
    if (ROOM(r, floats, 1))
        return -1;
    floats->items[floats->count] = value;
    return push(r, report_pickle_make_(PICKLE_FLOAT, floats->count++));
}

static int push_integer(PickleReader *r, int64_t value)
{
    if (value >= -PICKLE_LARGEST && value <= PICKLE_LARGEST)
        return push(r, report_pickle_make_(PICKLE_INTEGER, (uint64_t)value));
    return push_float(r, (double)value);
}

/* So many bytes, the last with the sign. */
static int read_integer(PickleReader *r, uint64_t bytes, int is_signed)
{
    uint64_t value;
    if (bytes > 8)
        return report_pickle_fail_(r, "at byte %llu: a whole number of %llu bytes", r->at,
                                   (unsigned long long)bytes);
    if (little_endian(r, (int)bytes, &value))
        return -1;
    if (is_signed && bytes && bytes < 8 && value >> (8 * bytes - 1))
        value |= UINT64_MAX << 8 * bytes;
    return push_integer(r, (int64_t)value);
}

static int read_long(PickleReader *r, int length_bytes)
{
    uint64_t bytes;
    return little_endian(r, length_bytes, &bytes) ? -1 : read_integer(r, bytes, 1);
}

static int read_float(PickleReader *r)
{
    uint64_t bits = 0;
    double value;
    for (int i = 0; i < 8; i++) {
        int byte = next_byte(r);
        if (byte < 0)
            return -1;
        bits = bits << 8 | (uint64_t)byte;
    }
    memcpy(&value, &bits, sizeof value);
    return push_float(r, value);
}

/* ---- Texts ----------------------------------------------------------------------------------- */

static uint64_t hash_of(const char *text, size_t length)
{
    uint64_t hash = UINT64_C(1469598103934665603);
    for (size_t i = 0; i < length; i++)
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(1099511628211);
    return hash ^ hash >> 29;
}

/* Where the text is in the table, or the empty place where it belongs. */
static size_t text_slot(const Pickle *p, const char *text, size_t length)
{
    size_t at = hash_of(text, length) & (p->slot_count - 1);
    for (; p->slots[at]; at = (at + 1) & (p->slot_count - 1)) {
        const PickleText *t = &p->texts.items[p->slots[at] - 1];
        if (t->length == length && !memcmp(p->letters.items + t->at, text, length))
            break;
    }
    return at;
}

static int grow_slots(PickleReader *r)
{
    Pickle *p = r->pickle;
    if (2 * (p->texts.count + 1) <= p->slot_count)
        return 0;
    size_t count = p->slot_count ? 2 * p->slot_count : 256;
    uint32_t *slots = memtrack_host_calloc(NULL, count * sizeof *slots);
    if (!slots)
        return no_memory(r);
    memtrack_host_free(NULL, p->slots, p->slot_count * sizeof *slots);
    p->slots = slots;
    p->slot_count = count;
    for (size_t i = 0; i < p->texts.count; i++) {
        const PickleText *t = &p->texts.items[i];
        p->slots[text_slot(p, p->letters.items + t->at, t->length)] = (uint32_t)i + 1;
    }
    return 0;
}

/* In pieces, so that a length alone costs no memory. */
static int read_letters(PickleReader *r, size_t length)
{
    PickleLetters *letters = &r->pickle->letters;
    for (size_t have = 0; have < length;) {
        size_t piece = length - have < 4096 ? length - have : 4096;
        if (room(r, &letters->items, &letters->capacity, letters->count + have, piece + 1, 1))
            return -1;
        if (fread(letters->items + letters->count + have, 1, piece, r->in) != piece)
            return report_pickle_fail_(r, "it ends inside the text at byte %llu", r->at);
        have += piece;
        r->read += piece;
    }
    return room(r, &letters->items, &letters->capacity, letters->count + length, 1, 1);
}

static int read_text(PickleReader *r, int length_bytes)
{
    uint64_t length;
    Pickle *p = r->pickle;
    if (little_endian(r, length_bytes, &length))
        return -1;
    if (length > TEXT_MOST || p->texts.count >= UINT32_MAX - 1)
        return report_pickle_fail_(r, "at byte %llu: a text of %llu bytes", r->at,
                                   (unsigned long long)length);
    if (read_letters(r, (size_t)length) || grow_slots(r) || ROOM(r, &p->texts, 1))
        return -1;
    const char *text = p->letters.items + p->letters.count;
    size_t slot = text_slot(p, text, (size_t)length);
    if (!p->slots[slot]) {
        p->texts.items[p->texts.count++] = (PickleText){p->letters.count, (size_t)length};
        p->letters.items[p->letters.count + length] = 0;
        p->letters.count += (size_t)length + 1;
        p->slots[slot] = (uint32_t)p->texts.count;
    }
    return push(r, report_pickle_make_(PICKLE_TEXT, p->slots[slot] - 1));
}

/* ---- Containers ------------------------------------------------------------------------------ */

static int push_container(PickleReader *r, PickleType type)
{
    PickleContainers *all = &r->pickle->containers;
    if (ROOM(r, all, 1))
        return -1;
    all->items[all->count] = (PickleContainer){0};
    return push(r, report_pickle_make_(type, all->count++));
}

/* The container's room for so many more; it moves to the end of all values unless it is there. */
static int extend(PickleReader *r, PickleContainer *c, size_t more)
{
    PickleValues *values = &r->pickle->values;
    if (c->count + more <= c->capacity)
        return 0;
    size_t wanted = c->capacity ? 2 * (c->count + more) : more;
    int last = c->capacity && c->start + c->capacity == values->count;
    if (ROOM(r, values, wanted))
        return -1;
    if (last) {
        values->count = c->start + wanted;
    } else {
        if (c->count)
            memcpy(values->items + values->count, values->items + c->start, c->count * sizeof *values->items);
        c->start = values->count;
        values->count += wanted;
    }
    c->capacity = wanted;
    return 0;
}

/* The top `count` values go into the container below them. Whatever is part of something may not change any
 * more: so there are no cycles. */
static int put_into(PickleReader *r, PickleType type, size_t count)
{
    PickleValues *stack = &r->stack;
    if (count == SIZE_MAX || has(r, count + 1))
        return -1;
    const PickleValue *items = stack->items + stack->count - count;
    PickleValue container = items[-1];
    if (report_pickle_type(container) != type || (type == PICKLE_DICT && count % 2))
        return report_pickle_fail_(r, "at byte %llu: %s finds none below its items", r->at,
                                   type == PICKLE_DICT ? "a dict" : "a list");
    for (size_t i = 0; i < count; i++)
        if (report_pickle_type(items[i]) >= PICKLE_LIST)
            r->pickle->containers.items[report_pickle_number_(items[i])].sealed = 1;
    PickleContainer *c = &r->pickle->containers.items[report_pickle_number_(container)];
    if (c->sealed)
        return report_pickle_fail_(r, "at byte %llu: a container that is part of another is changed", r->at);
    if (type == PICKLE_DICT && (c->count + count) / 2 > DICT_MOST)
        return report_pickle_fail_(r, "at byte %llu: a dict of more than %d entries", r->at, DICT_MOST);
    if (extend(r, c, count))
        return -1;
    if (count)
        memcpy(r->pickle->values.items + c->start + c->count, items, count * sizeof *items);
    c->count += count;
    stack->count -= count;
    return 0;
}

/* The top `count` values become a container of their own. */
static int make_of(PickleReader *r, PickleType type, size_t count)
{
    PickleValues *stack = &r->stack;
    if (count == SIZE_MAX || has(r, count) || push_container(r, type))
        return -1;
    PickleValue container = stack->items[stack->count - 1];
    PickleValue *items = stack->items + stack->count - 1 - count;
    memmove(items + 1, items, count * sizeof *items);
    items[0] = container;
    return put_into(r, type, count);
}

static int mark(PickleReader *r)
{
    if (r->mark_count == PICKLE_MARKS)
        return report_pickle_fail_(r, "at byte %llu: more than %d containers within each other", r->at,
                                   PICKLE_MARKS);
    r->marks[r->mark_count++] = r->stack.count;
    return 0;
}

/* ---- The memo -------------------------------------------------------------------------------- */

static int keep_as(PickleReader *r, uint64_t number)
{
    PickleValues *memo = &r->memo;
    if (has(r, 1))
        return -1;
    if (number >= r->read + MEMO_AHEAD)
        return report_pickle_fail_(r, "at byte %llu: %llu is no number of the memo", r->at,
                                   (unsigned long long)number);
    if (number >= memo->count) {
        size_t more = (size_t)number + 1 - memo->count;
        if (ROOM(r, memo, more))
            return -1;
        for (size_t i = memo->count; i <= number; i++)
            memo->items[i] = PICKLE_NOTHING;
        memo->count = (size_t)number + 1;
    }
    memo->items[number] = r->stack.items[r->stack.count - 1];
    return 0;
}

static int keep(PickleReader *r, int bytes)
{
    uint64_t number;
    return little_endian(r, bytes, &number) ? -1 : keep_as(r, number);
}

static int again(PickleReader *r, int bytes)
{
    uint64_t number;
    if (little_endian(r, bytes, &number))
        return -1;
    if (number >= r->memo.count || r->memo.items[number] == PICKLE_NOTHING)
        return report_pickle_fail_(r, "at byte %llu: the memo has no %llu", r->at,
                                   (unsigned long long)number);
    return push(r, r->memo.items[number]);
}

/* ---- Opcodes --------------------------------------------------------------------------------- */

static int protocol(PickleReader *r)
{
    int version = next_byte(r);
    if (version < 0)
        return -1;
    return version >= 2 && version <= 5 ? 0 : report_pickle_fail_(r, "it is of protocol %d", version);
}

static int frame(PickleReader *r)
{
    uint64_t length; /* a hint for those that read ahead */
    return little_endian(r, 8, &length);
}

static int apply(PickleReader *r, int opcode)
{
    switch (opcode) {
    case 0x80:
        return protocol(r);
    case 0x95:
        return frame(r);
    case '(':
        return mark(r);
    case 'N':
        return push(r, report_pickle_make_(PICKLE_NONE, 0));
    case 0x88:
        return push(r, report_pickle_make_(PICKLE_BOOL, 1));
    case 0x89:
        return push(r, report_pickle_make_(PICKLE_BOOL, 0));
    case 'K':
        return read_integer(r, 1, 0);
    case 'M':
        return read_integer(r, 2, 0);
    case 'J':
        return read_integer(r, 4, 1);
    case 0x8a:
        return read_long(r, 1);
    case 0x8b:
        return read_long(r, 4);
    case 'G':
        return read_float(r);
    case 0x8c:
        return read_text(r, 1);
    case 'X':
        return read_text(r, 4);
    case 0x8d:
        return read_text(r, 8);
    case ']':
        return push_container(r, PICKLE_LIST);
    case ')':
        return push_container(r, PICKLE_LIST);
    case '}':
        return push_container(r, PICKLE_DICT);
    case 'a':
        return put_into(r, PICKLE_LIST, 1);
    case 'e':
        return put_into(r, PICKLE_LIST, above_mark(r));
    case 's':
        return put_into(r, PICKLE_DICT, 2);
    case 'u':
        return put_into(r, PICKLE_DICT, above_mark(r));
    case 'l':
        return make_of(r, PICKLE_LIST, above_mark(r));
    case 't':
        return make_of(r, PICKLE_LIST, above_mark(r));
    case 'd':
        return make_of(r, PICKLE_DICT, above_mark(r));
    case 0x85:
        return make_of(r, PICKLE_LIST, 1);
    case 0x86:
        return make_of(r, PICKLE_LIST, 2);
    case 0x87:
        return make_of(r, PICKLE_LIST, 3);
    case 'q':
        return keep(r, 1);
    case 'r':
        return keep(r, 4);
    case 0x94:
        return keep_as(r, r->memo.count);
    case 'h':
        return again(r, 1);
    case 'j':
        return again(r, 4);
    default:
        return report_pickle_refuse_(r, opcode);
    }
}

static int read_value(PickleReader *r)
{
    for (;;) {
        r->at = r->read;
        int opcode = next_byte(r);
        if (opcode < 0)
            return -1;
        if (r->at == 0 && opcode != 0x80)
            return report_pickle_fail_(r, "it is no pickle of protocol 2 or later");
        if (opcode != '.') {
            if (apply(r, opcode))
                return -1;
            continue;
        }
        if (r->stack.count != 1 || r->mark_count)
            return report_pickle_fail_(r, "at byte %llu: it ends with %zu values instead of one", r->at,
                                       r->stack.count);
        r->pickle->root = r->stack.items[0];
        return 0;
    }
}

Pickle *report_pickle_read(FILE *in, char *why, size_t why_size)
{
    PickleReader r = {.in = in, .why = why, .why_size = why_size};
    r.pickle = memtrack_host_calloc(NULL, sizeof *r.pickle);
    if (r.pickle ? read_value(&r) : no_memory(&r)) {
        report_pickle_free(r.pickle);
        r.pickle = NULL;
    }
    memtrack_host_free(NULL, r.stack.items, r.stack.capacity * sizeof *r.stack.items);
    memtrack_host_free(NULL, r.memo.items, r.memo.capacity * sizeof *r.memo.items);
    return r.pickle;
}

#define RELEASE(list) memtrack_host_free(NULL, (list).items, (list).capacity * sizeof *(list).items)

void report_pickle_free(Pickle *p)
{
    if (!p)
        return;
    RELEASE(p->values);
    RELEASE(p->floats);
    RELEASE(p->letters);
    RELEASE(p->texts);
    RELEASE(p->containers);
    memtrack_host_free(NULL, p->slots, p->slot_count * sizeof *p->slots);
    memtrack_host_free(NULL, p, sizeof *p);
}

/* ---- Values ---------------------------------------------------------------------------------- */

PickleValue report_pickle_key(const Pickle *p, const char *text)
{
    uint32_t found = p->slot_count ? p->slots[text_slot(p, text, strlen(text))] : 0;
    return found ? report_pickle_make_(PICKLE_TEXT, found - 1) : report_pickle_make_(PICKLE_NONE, 0);
}
