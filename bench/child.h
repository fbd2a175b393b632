/* Child processes that answer in lines of JSON: PyTorch, and this program itself measuring its own growth. */
#ifndef BRIM_BENCH_CHILD_H
#define BRIM_BENCH_CHILD_H

#include <fcntl.h>
#include <jansson.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

typedef struct Child {
    pid_t pid;
    FILE *to, *from; /* NULL: not running */
} Child;

static int child_start(Child *child, const char *const argv[])
{
    int in[2], out[2];
    *child = (Child){0};
    if (pipe(in) != 0 || pipe(out) != 0)
        return -1;
    fcntl(in[1], F_SETFD, FD_CLOEXEC); /* a child started later would keep them open, and this one waiting */
    fcntl(out[0], F_SETFD, FD_CLOEXEC);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, in[0], 0);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    for (int i = 0; i < 2; i++) {
        posix_spawn_file_actions_addclose(&actions, in[i]);
        posix_spawn_file_actions_addclose(&actions, out[i]);
    }
    int failed = posix_spawnp(&child->pid, argv[0], &actions, NULL, (char *const *)argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(in[0]);
    close(out[1]);
    if (failed) {
        close(in[1]);
        close(out[0]);
        return -1;
    }
    child->to = fdopen(in[1], "w");
    child->from = fdopen(out[0], "r");
    return child->to && child->from ? 0 : -1;
}

/* The next line; NULL when there is none. The caller releases it with json_decref. */
static json_t *child_answer(Child *child)
{
    static char line[1 << 20];
    if (!child->from || !fgets(line, sizeof line, child->from))
        return NULL;
    return json_loads(line, 0, NULL);
}

static json_t *child_ask(Child *child, const char *request, int number)
{
    if (!child->to || fprintf(child->to, "%s %d\n", request, number) < 0 || fflush(child->to) != 0)
        return NULL;
    return child_answer(child);
}

static void child_end(Child *child)
{
    if (child->to)
        fclose(child->to);
    if (child->from)
        fclose(child->from);
    if (child->pid > 0)
        waitpid(child->pid, NULL, 0);
    *child = (Child){0};
}

#endif
