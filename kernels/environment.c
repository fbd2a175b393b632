/* A variable for a library that reads it while it starts. setenv would do, but not where another thread may
 * be reading the environment: it moves and frees what that thread walks along. Here readers find the array
 * that was there, or ours with the variable in front, and both stay. */
#include "kernels/blas.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { ENVIRONMENT_MOST = 4096 };

static char *environment_ours[ENVIRONMENT_MOST + 2], **environment_before;
static char *environment_replaced; /* what the variable was; NULL = not set */

int environment_begin(const char *assignment)
{
    size_t name = strcspn(assignment, "=") + 1;
    int count = 0;
    environment_replaced = NULL;
    memcpy(&environment_ours[count++], &assignment, sizeof assignment); /* nobody writes to it */
    for (char **variable = environ; variable && *variable; variable++) {
        if (count > ENVIRONMENT_MOST)
            return -1;
        if (strncmp(*variable, assignment, name))
            environment_ours[count++] = *variable;
        else
            environment_replaced = *variable;
    }
    environment_ours[count] = NULL;
    environment_before = environ;
    __atomic_store_n(&environ, environment_ours, __ATOMIC_RELEASE);
    return 0;
}

void environment_end(void)
{
    char name[64] = "";
    if (environ == environment_ours) {
        __atomic_store_n(&environ, environment_before, __ATOMIC_RELEASE);
        return;
    }
    /* The library has set one of its own, into a copy. */
    strncat(name, environment_ours[0], strcspn(environment_ours[0], "="));
    if (environment_replaced)
        putenv(environment_replaced);
    else
        unsetenv(name);
}
