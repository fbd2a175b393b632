/* What the operating system says about this process, read without stdio: fopen would take memory of its own,
 * and the point is to look at memory without changing it.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "memtrack_.h"

/* Fills text with the start of a file, as a string; false when it cannot be read. */
static bool read_start(const char *path, char *text, size_t size)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return false;
    size_t length = 0;
    ssize_t got;
    while (length + 1 < size && (got = read(file, text + length, size - 1 - length)) > 0)
        length += (size_t)got;
    close(file);
    text[length] = '\0';
    return length > 0;
}

/* The number after `key` in lines of "Key:   number kB", in bytes; false when there is none. */
static bool find_kib(const char *text, const char *key, uint64_t *bytes)
{
    const char *line = strstr(text, key);
    if (!line)
        return false;
    *bytes = (uint64_t)strtoull(line + strlen(key), NULL, 10) * 1024;
    return true;
}

uint64_t memtrack_process_resident(void)
{
    char text[4096];
    uint64_t bytes;
    if (read_start("/proc/self/status", text, sizeof text) && find_kib(text, "\nVmRSS:", &bytes))
        return bytes;
    return 0;
}

uint64_t memtrack_process_resident_peak(void)
{
    char text[4096];
    uint64_t bytes;
    if (read_start("/proc/self/status", text, sizeof text) && find_kib(text, "\nVmHWM:", &bytes))
        return bytes;
    struct rusage usage; /* some sandboxes have no VmHWM */
    return getrusage(RUSAGE_SELF, &usage) ? 0 : (uint64_t)usage.ru_maxrss * 1024;
}

/* The control group's limit, as a container sees it (versions 2 and 1); UINT64_MAX without one. */
static uint64_t group_limit(void)
{
    static const char *const paths[] = {"/sys/fs/cgroup/memory.max",
                                        "/sys/fs/cgroup/memory/memory.limit_in_bytes"};
    uint64_t limit = UINT64_MAX;
    for (size_t i = 0; i < sizeof paths / sizeof *paths; i++) {
        char text[64];
        if (!read_start(paths[i], text, sizeof text) || text[0] < '0' || text[0] > '9')
            continue; /* "max" means none */
        uint64_t value = strtoull(text, NULL, 10);
        if (value < limit)
            limit = value;
    }
    return limit;
}

uint64_t memtrack_process_available_(void)
{
    char text[4096];
    uint64_t available, swap = 0, limit = group_limit();
    if (!read_start("/proc/meminfo", text, sizeof text) || !find_kib(text, "\nMemAvailable:", &available))
        return limit;
    find_kib(text, "\nSwapFree:", &swap);
    available += swap;
    return available < limit ? available : limit;
}
