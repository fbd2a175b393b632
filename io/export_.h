/* Between the files of io that write a model for others. */
#ifndef BRIM_EXPORT_INTERNAL_H
#define BRIM_EXPORT_INTERNAL_H

#include <jansson.h>

#include "config_make_.h"
#include "safetensors_.h"
#include "weights.h"

/* ---- Which files (export_files.c) ------------------------------------------------------------ */

enum { EXPORT_FILES = 48, EXPORT_NAME = 96 };

typedef enum ExportFrom { EXPORT_MADE, EXPORT_SOURCE, EXPORT_TOKENIZER } ExportFrom;

/* A file beside the weights; its name may be in a folder: "1_Pooling/config.json". */
typedef struct ExportFile {
    char name[EXPORT_NAME];
    ExportFrom from;
} ExportFile;

typedef struct Export {
    const char *directory;
    char shown[FILE_LABEL];
    const ModelPreset *preset; /* NULL: the weights alone */
    const WeightsSaving *how;
    char tokenizer[PATH_BYTES]; /* of how->tokenizer, the file; "" = NULL */
    int own_tokenizer;          /* the tokenizer is the directory's own, and stays */
    ExportFile files[EXPORT_FILES];
    int count, staged; /* staged: how many have their temporary files */
} Export;

/* Lists what goes beside the weights. 0 or raises. */
int export_list(Export *e, const ModelPreset *preset, const char *directory, const WeightsSaving *how);
/* The text of a file that is made. Free it with json_text_free. 0 or raises. */
int export_make(const Export *e, const char *name, JsonText *out);
/* Where a file comes from. 0 or raises. */
int export_source_path(char out[PATH_BYTES], const Export *e, const ExportFile *file);
/* Raises ERROR_FILE when the directory holds what the export would not replace as a whole. */
int export_check(const Export *e, Module *model);
/* A file of a model that the export does not bring, so that it belongs to another: what --overwrite removes.
 */
int export_is_foreign(const Export *e, const char *name);
/* 1: both are there and hold the same. */
int files_equal(const char *a, const char *b);

/* Of a directory whose files are being replaced: what it holds between the first and the last is not whole.
 * Raises that, after a system call. The other two return 0 or raise it; a file that is not there is fine. */
int replace_failed(const char *directory, const char *what, const char *name);
int replace_remove(const char *directory, const char *name);
int replace_sync(const char *directory); /* its names */

#endif
