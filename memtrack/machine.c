/* What the machine has free for this process: MemAvailable and free swap, or what the control groups it is in
 * leave. Read without stdio, as everything here that looks at memory.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "memtrack_.h"

enum { PATH = 4096 };

enum { DROPPED = 3 };

/* A version of control groups: where it is mounted, its files, and what of its memory.stat the kernel drops
 * before it kills: file cache, used lately or not (files in a tmpfs are on other lists), and, where it is
 * told, what the kernel remembers of files. */
typedef struct GroupFiles {
    const char *mount, *limit, *usage, *dropped[DROPPED];
} GroupFiles;

#define VERSION2(mount)                                                                                      \
    {                                                                                                        \
        mount, "memory.max", "memory.current",                                                               \
        {                                                                                                    \
            "\ninactive_file ", "\nactive_file ", "\nslab_reclaimable "                                      \
        }                                                                                                    \
    }
static const GroupFiles version2 = VERSION2("/sys/fs/cgroup");
/* Beside version 1, version 2 may be mounted below. */
static const GroupFiles version2_beside = VERSION2("/sys/fs/cgroup/unified");
static const GroupFiles version1 = {"/sys/fs/cgroup/memory",
                                    "memory.limit_in_bytes",
                                    "memory.usage_in_bytes",
                                    {"\ntotal_inactive_file ", "\ntotal_active_file "}};

static bool read_file(const char *root, const char *directory, const char *name, char *text, size_t size)
{
    char path[3 * PATH];
    int length = snprintf(path, sizeof path, "%s%s/%s", root, directory, name);
    return length > 0 && (size_t)length < sizeof path && memtrack_read_start_(path, text, size);
}

/* A file of one number; "max" is none. */
static bool read_number(const char *root, const char *directory, const char *name, uint64_t *value)
{
    char text[64];
    if (!read_file(root, directory, name, text, sizeof text) || text[0] < '0' || text[0] > '9')
        return false;
    *value = strtoull(text, NULL, 10);
    return true;
}

/* What the group has in use that it could not just drop. */
static uint64_t group_usage(const char *root, const char *directory, const GroupFiles *files)
{
    char text[8192] = "\n";
    uint64_t used = 0, dropped = 0;
    read_number(root, directory, files->usage, &used);
    bool known = read_file(root, directory, "memory.stat", text + 1, sizeof text - 1);
    for (int i = 0; known && i < DROPPED && files->dropped[i]; i++) {
        const char *line = strstr(text, files->dropped[i]);
        dropped += line ? strtoull(line + strlen(files->dropped[i]), NULL, 10) : 0;
    }
    return used > dropped ? used - dropped : 0;
}

static void look_at_group(const char *root, const char *directory, const GroupFiles *files, MemMachine *out)
{
    uint64_t limit;
    if (!read_number(root, directory, files->limit, &limit) || limit >= UINT64_C(1) << 60)
        return; /* version 1 writes "none" as a number close to 2^63 */
    uint64_t used = group_usage(root, directory, files), left = limit > used ? limit - used : 0;
    if (limit < out->group_limit)
        out->group_limit = limit;
    if (left < out->available) {
        out->available = left;
        out->bound = "the limit of its control group";
    }
}

/* The group at `path` and all above it. In a container `path` may be the host's and not exist here; the mount
 * is then the container's own group. */
static void look_at_groups(const char *root, const char *path, const GroupFiles *files, MemMachine *out)
{
    char directory[2 * PATH];
    size_t mount = strlen(files->mount);
    int length = snprintf(directory, sizeof directory, "%s%s", files->mount, path);
    if (length < 0 || (size_t)length >= sizeof directory)
        return;
    for (size_t end = (size_t)length;; end--) {
        if (end > mount && directory[end] != '/' && directory[end] != '\0')
            continue;
        directory[end] = '\0';
        look_at_group(root, directory, files, out);
        if (end <= mount)
            return;
    }
}

static bool names_memory(const char *controllers, size_t length)
{
    static const char name[] = "memory";
    for (size_t i = 0; i + sizeof name - 1 <= length; i++) {
        char after = controllers[i + sizeof name - 1];
        if (!strncmp(controllers + i, name, sizeof name - 1) && (i == 0 || controllers[i - 1] == ',') &&
            (after == ',' || after == ':'))
            return true;
    }
    return false;
}

/* A line of /proc/self/cgroup: "number:controllers:path". */
static void look_at_line(const char *root, const char *line, MemMachine *out)
{
    const char *controllers = strchr(line, ':');
    const char *path = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!path)
        return;
    size_t length = (size_t)(path - controllers - 1);
    if (length == 0) {
        look_at_groups(root, path + 1, &version2, out);
        look_at_groups(root, path + 1, &version2_beside, out);
    } else if (names_memory(controllers + 1, length)) {
        look_at_groups(root, path + 1, &version1, out);
    }
}

void memtrack_machine_(const char *root, MemMachine *out)
{
    char text[2 * PATH], *rest = text;
    uint64_t available, swap = 0;
    *out = (MemMachine){.available = UINT64_MAX, .group_limit = UINT64_MAX, .bound = "nothing known"};
    if (read_file(root, "/proc", "meminfo", text, sizeof text)) {
        memtrack_find_kib_(text, "MemTotal:", &out->physical);
        memtrack_find_kib_(text, "\nSwapFree:", &swap);
        if (memtrack_find_kib_(text, "\nMemAvailable:", &available)) {
            out->available = available + swap;
            out->bound = swap ? "MemAvailable and free swap" : "MemAvailable";
        }
    }
    bool known = read_file(root, "/proc/self", "cgroup", text, sizeof text);
    for (char *line; known && (line = strsep(&rest, "\n"));)
        look_at_line(root, line, out);
    if (!known) { /* no /proc: the mounts may still tell */
        look_at_group(root, version2.mount, &version2, out);
        look_at_group(root, version1.mount, &version1, out);
    }
}

void memtrack_machine(MemMachine *out)
{
    memtrack_machine_("", out);
}
