/* What the machine has free, read from made-up /proc and /sys: control groups of both versions, what they use,
 * and which limit bounds it. */
#include <errno.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "memtrack/memtrack_.h"
#include "memtrack_support.h"

#define GIB ((uint64_t)1 << 30)

static char root[] = "/tmp/brim-machine-XXXXXX";

/* Writes a file, with the directories above it. */
static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *slash = strchr(full + sizeof root, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(full, 0700);
        *slash = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    fputs(text, file);
    assert_int_equal(fclose(file), 0);
}

static int fresh_root(void **state)
{
    (void)state;
    strcpy(root + sizeof root - 7, "XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int remove_root(void **state)
{
    char command[64];
    snprintf(command, sizeof command, "rm -r '%s'", root);
    return system(command) || nothing_held(state);
}

/* 32 GiB of memory, so much available, in GiB, and so much swap free. */
static void put_meminfo(unsigned available, unsigned swap)
{
    char text[256];
    snprintf(text, sizeof text,
             "MemTotal:       33554432 kB\nMemFree:         1000 kB\nMemAvailable:   %u kB\nSwapTotal: 99999999 "
             "kB\nSwapFree:  %u kB\n",
             available << 20, swap << 20);
    put("/proc/meminfo", text);
}

static MemMachine look(void)
{
    MemMachine machine;
    memtrack_machine_(root, &machine);
    return machine;
}

static void nothing_to_read(void **state)
{
    (void)state;
    MemMachine machine = look();
    assert_true(machine.available == UINT64_MAX && machine.group_limit == UINT64_MAX);
    assert_int_equal(machine.physical, 0);
    assert_string_equal(machine.bound, "nothing known");
}

static void memory_and_swap(void **state)
{
    (void)state;
    put_meminfo(20, 0);
    MemMachine machine = look();
    assert_int_equal(machine.available, 20 * GIB);
    assert_int_equal(machine.physical, 32 * GIB);
    assert_true(machine.group_limit == UINT64_MAX);
    assert_string_equal(machine.bound, "MemAvailable");
    put_meminfo(20, 3);
    machine = look();
    assert_int_equal(machine.available, 23 * GIB);
    assert_string_equal(machine.bound, "MemAvailable and free swap");
}

/* The process is in a.slice/b: the group above it has the tighter limit once what both use is counted. */
static void version_2_counts_what_each_group_uses(void **state)
{
    (void)state;
    put_meminfo(20, 0);
    put("/proc/self/cgroup", "0::/a.slice/b\n");
    put("/sys/fs/cgroup/a.slice/b/memory.max", "10737418240\n");    /* 10 GiB */
    put("/sys/fs/cgroup/a.slice/b/memory.current", "3221225472\n"); /* 3 GiB, 1 of it in use */
    put("/sys/fs/cgroup/a.slice/b/memory.stat",
        "anon 1073741824\nfile 1610612736\nshmem 5\ninactive_anon 5\nactive_file 536870912\n"
        "inactive_file 1073741824\nslab_reclaimable 536870912\nslab_unreclaimable 5\n");
    put("/sys/fs/cgroup/a.slice/memory.max", "12884901888\n");    /* 12 GiB */
    put("/sys/fs/cgroup/a.slice/memory.current", "2147483648\n"); /* 2 GiB */
    MemMachine machine = look();
    assert_int_equal(machine.available, 9 * GIB);
    assert_int_equal(machine.group_limit, 10 * GIB);
    assert_string_equal(machine.bound, "the limit of its control group");
    put("/sys/fs/cgroup/a.slice/memory.current", "8589934592\n"); /* 8 GiB: 4 are left */
    machine = look();
    assert_int_equal(machine.available, 4 * GIB);
    assert_int_equal(machine.group_limit, 10 * GIB);
    put("/sys/fs/cgroup/a.slice/memory.current", "13958643712\n"); /* above its limit: nothing is left */
    assert_int_equal(look().available, 0);
    put("/sys/fs/cgroup/a.slice/memory.max", "max\n");
    put("/sys/fs/cgroup/a.slice/b/memory.max", "max\n");
    machine = look();
    assert_int_equal(machine.available, 20 * GIB);
    assert_true(machine.group_limit == UINT64_MAX);
    put("/sys/fs/cgroup/memory.max", "1073741824"); /* of the container, at the mount itself */
    assert_int_equal(look().available, GIB);
}

static void version_1_is_found_by_its_controller(void **state)
{
    (void)state;
    put_meminfo(20, 0);
    put("/proc/self/cgroup", "5:cpu,cpuacct:/no\n4:hugetlb_memory:/no\n3:blkio,memory:/job\n0::/\n");
    put("/sys/fs/cgroup/memory/no/memory.limit_in_bytes", "4096\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    put("/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "6442450944\n");      /* 6 GiB */
    put("/sys/fs/cgroup/memory/job/memory.usage_in_bytes", "3221225472\n");      /* 3 GiB */
    put("/sys/fs/cgroup/memory/job/memory.stat", "inactive_file 7\nactive_file 7\ntotal_inactive_file 536870912\n"
                                                          "total_active_file 536870912\n");
    MemMachine machine = look();
    assert_int_equal(machine.available, 4 * GIB);
    assert_int_equal(machine.group_limit, 6 * GIB);
    /* In a container without a namespace of its own the path is the host's, and the mount is the group. */
    put("/proc/self/cgroup", "3:memory:/docker/0123456789\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n");
    assert_int_equal(look().available, 2 * GIB);
}

static void a_limit_without_proc(void **state)
{
    (void)state;
    put("/sys/fs/cgroup/memory.max", "1073741824\n");
    MemMachine machine = look();
    assert_int_equal(machine.available, GIB);
    assert_int_equal(machine.physical, 0);
}

static void this_machine(void **state)
{
    (void)state;
    MemMachine machine;
    memtrack_machine(&machine);
    assert_true(machine.available > 0 && strlen(machine.bound) > 0);
    assert_true(machine.physical > GIB / 4);
}

/* A process that has its turn keeps others waiting; the turn ends with it. */
static void turns(void **state)
{
    (void)state;
    int ready[2];
    char byte;
    assert_int_equal(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        int taken = memtrack_turn_take_() >= 0;
        if (write(ready[1], taken ? "y" : "n", 1) != 1)
            _exit(1);
        usleep(300000);
        _exit(write(ready[1], "e", 1) != 1);
    }
    assert_int_equal(read(ready[0], &byte, 1), 1);
    int turn = memtrack_turn_take_();
    if (byte == 'y') { /* it came after the other's end */
        struct pollfd ended = {.fd = ready[0], .events = POLLIN};
        assert_true(turn >= 0);
        assert_int_equal(poll(&ended, 1, 0), 1);
    }
    memtrack_turn_end_(turn);
    assert_int_equal(waitpid(child, NULL, 0), child);
    close(ready[0]);
    close(ready[1]);
}

/* From here on MADV_POPULATE_WRITE fails with this, and flock with ENOSYS. Non-zero where that cannot be had. */
static int refuse_calls(int error)
{
    enum { MADV_POPULATE = 23 };
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_flock, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_madvise, 0, 2),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])), /* its low half */
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, MADV_POPULATE, 2, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)error),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

enum { RESERVES, REFUSES, RESERVES_UNTOUCHED, CANNOT_TELL };

static int reserve_where(int error)
{
    enum { RESERVED = 32 << 20 };
    MemTracker *tracker = memtrack_create();
    if (!tracker || refuse_calls(error))
        return CANNOT_TELL;
    uint64_t before = memtrack_process_resident();
    MemLedger *ledger = memtrack_ledger_create(
        tracker, &(MemLedgerOptions){.mode = MEMTRACK_RESERVED, .capacity = RESERVED});
    int touched = memtrack_process_resident() >= before + RESERVED - (1 << 20);
    memtrack_destroy(tracker);
    return !ledger ? REFUSES : touched ? RESERVES : RESERVES_UNTOUCHED;
}

/* An old kernel and a sandbox know neither the lock nor how to touch pages in one call; no memory is no memory. */
static void without_newer_calls(void **state)
{
    (void)state;
    static const int cases[][2] = {{EINVAL, RESERVES}, {EPERM, RESERVES}, {ENOSYS, RESERVES}, {ENOMEM, REFUSES}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int status;
        pid_t child = fork();
        if (child == 0)
            _exit(reserve_where(cases[i][0]));
        assert_int_equal(waitpid(child, &status, 0), child);
        assert_true(WIFEXITED(status));
        if (WEXITSTATUS(status) == CANNOT_TELL)
            skip();
        assert_int_equal(WEXITSTATUS(status), cases[i][1]);
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fresh_root, remove_root)
    const struct CMUnitTest tests[] = {
        TEST(nothing_to_read),
        TEST(memory_and_swap),
        TEST(version_2_counts_what_each_group_uses),
        TEST(version_1_is_found_by_its_controller),
        TEST(a_limit_without_proc),
        TEST(this_machine),
        TEST(turns),
        TEST(without_newer_calls),
    };
    return cmocka_run_group_tests_name("memtrack machine", tests, NULL, NULL);
}
