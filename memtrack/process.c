/* What the operating system says about this process, read without stdio: fopen would take memory of its own,
 * and the point is to look at memory without changing it.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "memtrack_.h"

bool memtrack_read_start_(const char *path, char *text, size_t size)
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

bool memtrack_find_kib_(const char *text, const char *key, uint64_t *bytes)
{
    const char *line = strstr(text, key);
    if (!line)
        return false;
    *bytes = (uint64_t)strtoull(line + strlen(key), NULL, 10) * 1024;
    return true;
}

/* 0 where it is not told. */
static uint64_t status_bytes(const char *key)
{
    char text[4096];
    uint64_t bytes;
    if (memtrack_read_start_("/proc/self/status", text, sizeof text) && memtrack_find_kib_(text, key, &bytes))
        return bytes;
    return 0;
}

uint64_t memtrack_process_resident(void)
{
    return status_bytes("\nVmRSS:");
}

uint64_t memtrack_process_resident_files(void)
{
    return status_bytes("\nRssFile:");
}

uint64_t memtrack_process_resident_peak(void)
{
    uint64_t bytes = status_bytes("\nVmHWM:");
    struct rusage usage;
    if (!bytes && getrusage(RUSAGE_SELF, &usage) == 0) /* some sandboxes have no VmHWM */
        bytes = (uint64_t)usage.ru_maxrss * 1024;
    return bytes;
}
