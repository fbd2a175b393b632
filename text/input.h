/* A text in host memory, for those that cannot be read twice or by parts: a pipe, a .gz, several files as
 * one. It is read once, before a plan, and is then the text of the plan and of the run.
 */
#ifndef BRIM_TEXT_INPUT_H
#define BRIM_TEXT_INPUT_H

#include <stddef.h>
#include <stdint.h>

#include "../base/api.h"
#include "text_names.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct TextInput TextInput;

/* Whether a path is such a text: "-" (standard input), a pipe, a gzip file (by what it holds, not by its
 * name), a directory, or several files with commas between ("a.txt,b.txt", where no file has that name). A
 * path that cannot be looked at is none. */
BRIM_API int text_input_needed(const char *path);

/* Reads it, or a plain file, whole. A gzip file is decoded. Of a directory the files *.txt are read (not
 * those of directories in it), in the order of their names as bytes; several files follow each other as
 * given. A file that does not end with a newline gets one when another follows; nothing else is put between.
 * What is decoded, comes from a pipe or from several files may have 1 GiB. It belongs to no context. NULL
 * with ERROR_FILE, ERROR_DATA or ERROR_HOST_MEMORY. */
BRIM_API TextInput *text_input_read(const char *path);
BRIM_API void text_input_free(TextInput *input); /* NULL is fine */

BRIM_API const char *text_input_text(const TextInput *input, size_t *bytes); /* a NUL follows it */
/* How many parts of it are not UTF-8, as many as U+FFFD would take their place, and where the first begins
 * (-1: none). */
BRIM_API int64_t text_input_invalid(const TextInput *input, int64_t *first);
/* Whether it was read from a pipe, so that nobody can read it again. */
BRIM_API int text_input_is_pipe(const TextInput *input);
/* Raises ERROR_DATA when it is no text for a tokenizer: a container, an archive, another encoding; or where
 * some of it is not UTF-8, unless that is to be replaced by U+FFFD. Returns an error code. */
BRIM_API int text_input_check(const TextInput *input, int replace_invalid);
/* What a user should know: that it is JSON or a table, has a byte-order mark, what was replaced. "" =
 * nothing. as_bytes: for a model that reads bytes, whatever they are. */
typedef struct TextNote {
    char text[512];
} TextNote;
BRIM_API TextNote text_input_note(const TextInput *input, int as_bytes);

#ifdef __cplusplus
}
#endif
#endif
