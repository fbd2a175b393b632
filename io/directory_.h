/* What a directory is in which no model, or none that is read, was found. */
#ifndef BRIM_DIRECTORY_INTERNAL_H
#define BRIM_DIRECTORY_INTERNAL_H

/* Weights, models and tokenizers are handed around in many forms. Raises ERROR_FILE with a sentence that says
 * which one the directory holds and what to do, where that is known; else "DIRECTORY has no WANTED". */
int directory_refuse(const char *directory, const char *wanted);
/* What the first bytes of a file say that it is, with what to do, as ": …"; "" = not known. */
const char *file_guess(const unsigned char *bytes, unsigned long size);

#endif
