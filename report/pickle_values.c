/* What a Pickle holds, and the names of the opcodes that none of it comes from. */
#include <string.h>

#include "pickle_read_.h"

/* ---- Values ---------------------------------------------------------------------------------- */

PickleValue report_pickle_root(const Pickle *p)
{
    return p->root;
}

PickleType report_pickle_type(PickleValue value)
{
    return (PickleType)(value & ((1 << PICKLE_BITS) - 1));
}

int64_t report_pickle_integer(PickleValue value, int64_t otherwise)
{
    uint64_t number = report_pickle_number_(value);
    if (report_pickle_type(value) != PICKLE_INTEGER && report_pickle_type(value) != PICKLE_BOOL)
        return otherwise;
    if (number >> (63 - PICKLE_BITS)) /* the sign, which the shift has lost */
        number |= UINT64_MAX << (64 - PICKLE_BITS);
    return (int64_t)number;
}

double report_pickle_float(const Pickle *p, PickleValue value, double otherwise)
{
    if (report_pickle_type(value) == PICKLE_FLOAT)
        return p->floats.items[report_pickle_number_(value)];
    return report_pickle_type(value) == PICKLE_INTEGER ? (double)report_pickle_integer(value, 0) : otherwise;
}

const char *report_pickle_text(const Pickle *p, PickleValue value)
{
    if (report_pickle_type(value) != PICKLE_TEXT)
        return "";
    return p->letters.items + p->texts.items[report_pickle_number_(value)].at;
}

size_t report_pickle_count(const Pickle *p, PickleValue value)
{
    PickleType type = report_pickle_type(value);
    if (type != PICKLE_LIST && type != PICKLE_DICT)
        return 0;
    size_t count = p->containers.items[report_pickle_number_(value)].count;
    return type == PICKLE_DICT ? count / 2 : count;
}

PickleValue report_pickle_item(const Pickle *p, PickleValue list, size_t i)
{
    if (report_pickle_type(list) != PICKLE_LIST || i >= report_pickle_count(p, list))
        return report_pickle_make_(PICKLE_NONE, 0);
    return p->values.items[p->containers.items[report_pickle_number_(list)].start + i];
}

PickleValue report_pickle_get(const Pickle *p, PickleValue dict, PickleValue key)
{
    if (report_pickle_type(dict) == PICKLE_DICT && report_pickle_type(key) == PICKLE_TEXT) {
        const PickleContainer *c = &p->containers.items[report_pickle_number_(dict)];
        for (size_t i = c->count; i >= 2; i -= 2)
            if (p->values.items[c->start + i - 2] == key)
                return p->values.items[c->start + i - 1];
    }
    return report_pickle_make_(PICKLE_NONE, 0);
}

PickleValue report_pickle_at(const Pickle *p, PickleValue dict, const char *key)
{
    return report_pickle_get(p, dict, report_pickle_key(p, key));
}

/* ---- Opcodes that are refused ---------------------------------------------------------------- */

/* The opcode, its name in Python's pickletools, and whether it makes or calls what the file names. */
static const struct {
    int opcode;
    const char *name;
    int executes;
} refused[] = {
    {'c', "GLOBAL", 1},
    {0x93, "STACK_GLOBAL", 1},
    {'R', "REDUCE", 1},
    {'b', "BUILD", 1},
    {'i', "INST", 1},
    {'o', "OBJ", 1},
    {0x81, "NEWOBJ", 1},
    {0x92, "NEWOBJ_EX", 1},
    {0x82, "EXT1", 1},
    {0x83, "EXT2", 1},
    {0x84, "EXT4", 1},
    {'P', "PERSID", 1},
    {'Q', "BINPERSID", 1},
    {'0', "POP", 0},
    {'1', "POP_MARK", 0},
    {'2', "DUP", 0},
    {'F', "FLOAT", 0},
    {'I', "INT", 0},
    {'L', "LONG", 0},
    {'S', "STRING", 0},
    {'T', "BINSTRING", 0},
    {'U', "SHORT_BINSTRING", 0},
    {'V', "UNICODE", 0},
    {'B', "BINBYTES", 0},
    {'C', "SHORT_BINBYTES", 0},
    {0x8e, "BINBYTES8", 0},
    {0x96, "BYTEARRAY8", 0},
    {0x97, "NEXT_BUFFER", 0},
    {0x98, "READONLY_BUFFER", 0},
    {0x8f, "EMPTY_SET", 0},
    {0x90, "ADDITEMS", 0},
    {0x91, "FROZENSET", 0},
    {'g', "GET", 0},
    {'p', "PUT", 0},
};

int report_pickle_refuse_(PickleReader *r, int opcode)
{
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++)
        if (refused[i].opcode == opcode)
            return report_pickle_fail_(r,
                                       refused[i].executes
                                           ? "at byte %llu: %s would make an object of the file's choice; "
                                             "nothing of the file is executed"
                                           : "at byte %llu: %s is not read; plain dicts, lists, texts and "
                                             "numbers are",
                                       r->at, refused[i].name);
    return report_pickle_fail_(r, "at byte %llu: 0x%02x is no opcode", r->at, opcode);
}
