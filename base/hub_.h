/* Folders of Hugging Face's download cache: models--org--name holds snapshots/HASH, of which refs/main names
 * the one that is current. */
#ifndef BRIM_HUB_H
#define BRIM_HUB_H

#include "file_.h"

/* Where the files of a path are: of such a folder the snapshot that refs/main names, else the only one there
 * is; of any other path itself. 0, or raises ERROR_FILE: no snapshot, or several and none is named. */
int hub_follow(char out[PATH_BYTES], const char *path);
/* The model's name in the path of such a folder or of a snapshot in it
 * ("…/models--org--name/snapshots/HASH"), without the organisation; "" = it is no such path. */
void hub_name(char *out, size_t size, const char *path);

#endif
