/* What readers of texts share with input.c. */
#ifndef BRIM_TEXT_INPUT_INTERNAL_H
#define BRIM_TEXT_INPUT_INTERNAL_H

#include "../base/file_.h"
#include "../base/file_kind_.h"
#include "../memtrack/memtrack.h"
#include "input.h"

/* As text_input_read, with memory of this tracker's context; NULL: of none. */
TextInput *text_input_open(const char *path, MemTracker *tracker);
/* The path as messages show it: "-" is standard input. */
void text_input_label(char out[FILE_LABEL], const char *path);
/* Whether reading it would take it away from the next reader. */
int text_input_is_once(const char *path);
/* What a file is said to be, from its first bytes. */
TextNote text_kind_note(const char *name, const uint8_t *head, size_t count, uint64_t bytes, int as_bytes);

#endif
