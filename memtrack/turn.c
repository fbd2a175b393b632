/* One process at a time looks at what is free and takes it: two that look at the same moment would both find
 * room, and the kernel would then kill one of them. The lock is on the file that is looked at: every process
 * may open it, nothing has to be made or removed, and it ends with the process.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#include "memtrack_.h"

/* A process that is stopped in its turn must not stop all others; reserving 100 GiB takes about as long. */
enum { PATIENCE_MS = 30000, PAUSE_MS = 2 };

int memtrack_turn_take_(void)
{
    int file = open("/proc/meminfo", O_RDONLY | O_CLOEXEC);
    for (int waited = 0; file >= 0; waited += PAUSE_MS) {
        if (flock(file, LOCK_EX | LOCK_NB) == 0)
            return file;
        if ((errno != EWOULDBLOCK && errno != EINTR) || waited >= PATIENCE_MS)
            break;
        nanosleep(&(struct timespec){.tv_nsec = PAUSE_MS * 1000000L}, NULL);
    }
    if (file >= 0)
        close(file);
    return -1;
}

void memtrack_turn_end_(int turn)
{
    if (turn >= 0)
        close(turn);
}
