/* Joining ranks without an MPI: launchers are variables, the plugin is a fake (tests/ranks/fake_plugin.c).
 * What is wrong is said in a sentence, and the watchdog tells what a rank waits in. */
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../ranks/launcher_.h"
#include "../ranks/ranks.h"
#include "../ranks/transport.h"
#include "../ranks/watch_.h"
#include "support.h"

static const char *const variables[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE",       "SLURM_STEP_NUM_TASKS",
                                        "SLURM_PROCID",         "SLURM_NTASKS",   "BRIM_MPI",
                                        "BRIM_LAUNCHED",        "FAKE_RANK",      "FAKE_SIZE",
                                        "FAKE_NODE_RANK",       "FAKE_NODE_SIZE", "FAKE_ABI",
                                        "FAKE_OPEN_FAILS",      "FAKE_CLOSED",    "FAKE_RANK_FAILS"};

static char fake[PLUGIN_PATH], path_before[PLUGIN_PATH];

static int clean(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(variables); i++)
        unsetenv(variables[i]);
    return setenv("PATH", path_before, 1);
}

static int setup(void **state)
{
    snprintf(path_before, sizeof path_before, "%s", getenv("PATH"));
    char program[PLUGIN_PATH];
    if (launcher_program_(program) != 0)
        return -1;
    snprintf(fake, sizeof fake, "%.*sfake-plugin.so", (int)(plugin_file_(program) - program), program);
    return clean(state);
}

static void set(const char *variable, const char *value)
{
    assert_int_equal(setenv(variable, value, 1), 0);
}

/* Joins, expects this code, and that the sentence has each of the texts. */
static void assert_joined(int code, int size, Ranks *ranks, const char *const *texts)
{
    char why[1024];
    int got = ranks_join(ranks, RANKS_ZERO3, size, why, sizeof why);
    if (got != code)
        fail_msg("ranks_join: %d, not %d: %s", got, code, why);
    for (; texts && *texts; texts++)
        if (!strstr(why, *texts))
            fail_msg("'%s' is not in: %s", *texts, why);
    if (code)
        assert_null(ranks->transport);
}

#define assert_refused(size, ...)                                                                            \
    assert_joined(ERROR_RANKS, size, &(Ranks){0}, (const char *const[]){__VA_ARGS__, NULL})

static void test_launchers_are_known(void **state)
{
    (void)state;
    assert_int_equal(ranks_launched(), 0);
    set("SLURM_NTASKS", "8"); /* a job's script has these two, and is one process */
    set("SLURM_PROCID", "0");
    assert_int_equal(ranks_launched(), 0);
    set("SLURM_STEP_NUM_TASKS", "4");
    assert_int_equal(ranks_launched(), 4);
    set("PMI_SIZE", "6");
    assert_int_equal(ranks_launched(), 6);
    set("OMPI_COMM_WORLD_SIZE", "3");
    assert_int_equal(ranks_launched(), 3);
    set("OMPI_COMM_WORLD_SIZE", "many");
    assert_int_equal(ranks_launched(), 6);
    unsetenv("PMI_SIZE");
    unsetenv("SLURM_PROCID");
    assert_int_equal(ranks_launched(), 0);
}

static void test_alone_is_one_rank(void **state)
{
    (void)state;
    Ranks ranks;
    for (int size = 0; size < 2; size++) {
        assert_joined(0, size, &ranks, NULL);
        assert_int_equal(ranks.size, 1);
        assert_int_equal(ranks.rank, 0);
        assert_int_equal(ranks.strategy, RANKS_ZERO3);
        assert_null(ranks.transport);
    }
    set("OMPI_COMM_WORLD_SIZE", "1"); /* mpirun -n 1 needs no plugin */
    assert_joined(0, 0, &ranks, NULL);
    assert_null(ranks.transport);
    assert_refused(2, "2 ranks are expected", "Open MPI's mpirun started 1", "mpirun -n 2",
                   "test_ranks_join");
    ranks_leave(&ranks, 0);
}

static void test_without_a_launcher_it_says_the_command(void **state)
{
    (void)state;
    assert_refused(2, "2 ranks are expected", "no launcher", "mpirun -n 2", "test_ranks_join");
    assert_refused(100000, "mpirun -n 100000 --oversubscribe");
}

static void test_a_plugin_is_opened_and_closed(void **state)
{
    (void)state;
    Ranks ranks;
    set("BRIM_MPI", fake);
    set("PMI_SIZE", "3");
    set("FAKE_SIZE", "3");
    set("FAKE_RANK", "2");
    set("FAKE_NODE_RANK", "1");
    set("FAKE_NODE_SIZE", "2");
    for (int expected = 0; expected <= 3; expected += 3) {
        assert_joined(0, expected, &ranks, NULL);
        assert_int_equal(ranks.size, 3);
        assert_int_equal(ranks.rank, 2);
        assert_int_equal(ranks.node_rank, 1);
        assert_int_equal(ranks.node_size, 2);
        assert_non_null(ranks.transport);
        unsetenv("FAKE_CLOSED");
        ranks_leave(&ranks, ERROR_MEMORY);
        assert_null(getenv("FAKE_CLOSED")); /* the others would be waited for */
        assert_joined(0, expected, &ranks, NULL);
        ranks_leave(&ranks, 0);
        assert_string_equal(getenv("FAKE_CLOSED"), "1");
    }
    unsetenv("PMI_SIZE"); /* a launcher that nobody knows: the library is believed */
    assert_joined(0, 3, &ranks, NULL);
    assert_int_equal(ranks.rank, 2);
    ranks_leave(&ranks, 0);
}

static void test_numbers_that_differ_are_refused(void **state)
{
    (void)state;
    set("BRIM_MPI", fake);
    set("PMI_SIZE", "3");
    assert_refused(0, "MPICH's mpirun started 3 ranks", "fake-plugin.so (Fake MPI 1.0)", "rank 0 of 1",
                   "another MPI", "libbrim-mpi-mpich.so");
    assert_string_equal(getenv("FAKE_CLOSED"), "1");
    set("FAKE_SIZE", "3");
    assert_refused(4, "4 ranks are expected", "MPICH's mpirun started 3", "mpirun -n 4");
    unsetenv("PMI_SIZE");
    set("FAKE_SIZE", "1");
    assert_refused(4, "4 ranks are expected", "no launcher");
}

static void test_plugins_that_do_not_serve_are_refused(void **state)
{
    (void)state;
    set("OMPI_COMM_WORLD_SIZE", "2");
    set("FAKE_SIZE", "2");
    set("BRIM_MPI", "/nowhere/libbrim-mpi-openmpi.so");
    assert_refused(0, "BRIM_MPI names what cannot be loaded", "/nowhere/libbrim-mpi-openmpi.so");
    set("BRIM_MPI", "libz.so.1");
    assert_refused(0, "libz.so.1 is no plugin of brim");
    set("BRIM_MPI", fake);
    set("FAKE_ABI", "99");
    assert_refused(0, "fake-plugin.so was built for another version of brim", "number 99", "make mpi");
    unsetenv("FAKE_ABI");
    set("FAKE_OPEN_FAILS", "1");
    assert_refused(0, "fake-plugin.so: the fake says no");
    unsetenv("FAKE_OPEN_FAILS");
    set("FAKE_RANK_FAILS", "1");
    assert_refused(0, "does not say which rank this is: the fake says no");
}

/* In a folder of its own, where no plugin is. */
static void test_a_plugin_that_is_missing_is_named(void **state)
{
    (void)state;
    char folder[] = "/tmp/brim-ranks-XXXXXX", program[PLUGIN_PATH], copy[64], line[PLUGIN_PATH + 256],
         text[2048] = "";
    assert_non_null(mkdtemp(folder));
    assert_int_equal(launcher_program_(program), 0);
    snprintf(copy, sizeof copy, "%s/program", folder);
    snprintf(line, sizeof line, "cp '%s' %s", program, copy);
    assert_int_equal(system(line), 0);
    snprintf(line, sizeof line, "OMPI_COMM_WORLD_SIZE=2 LD_LIBRARY_PATH= %s join 2>&1; rm -r %s", copy,
             folder);
    FILE *f = popen(line, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    pclose(f);
    if (!strstr(text, "Open MPI's mpirun started this process, but none of libbrim-mpi-openmpi.so, "
                      "libbrim-mpi-abi.so") ||
        !strstr(text, "`make mpi`"))
        fail_msg("%s", text);
}

/* What becomes mpirun: a script that prints what it was given. */
static void test_a_program_starts_its_ranks(void **state)
{
    (void)state;
    char folder[] = "/tmp/brim-ranks-XXXXXX", program[PLUGIN_PATH], line[3 * PLUGIN_PATH], text[4096] = "";
    assert_non_null(mkdtemp(folder));
    assert_int_equal(launcher_program_(program), 0);
    snprintf(line, sizeof line, "%s/mpirun", folder);
    FILE *f = fopen(line, "w");
    assert_non_null(f);
    fprintf(f, "#!/bin/sh\nprintf '<%%s>' \"$@\"\necho \" over:$OMPI_MCA_rmaps_base_oversubscribe "
               "launched:$BRIM_LAUNCHED\"\nexit 7\n");
    fclose(f);
    snprintf(line, sizeof line,
             "chmod 755 %s/mpirun; PATH=%s BRIM_MPI=%s '%s' launch 5000 'two words'; echo code:$?; rm -r %s",
             folder, folder, fake, program, folder);
    f = popen(line, "r");
    assert_non_null(f);
    text[fread(text, 1, sizeof text - 1, f)] = 0;
    pclose(f);
    snprintf(line, sizeof line, "<-n><5000><%s><launch><5000><two words> over:1 launched:1\ncode:7\n",
             program);
    assert_string_equal(text, line);
}

static void test_what_cannot_be_started_says_the_command(void **state)
{
    (void)state;
    char why[1024];
    char *argv[] = {"brim", "train", "--data", "it's a file", NULL};
    set("PATH", "/nowhere");
    set("BRIM_MPI", fake);
    assert_int_equal(ranks_launch(2, argv, why, sizeof why), ERROR_RANKS);
    assert_non_null(strstr(why, "not on the path"));
    assert_non_null(strstr(why, "mpirun -n 2 brim train --data 'it'\\''s a file'"));
    set("BRIM_LAUNCHED", "1"); /* by a launcher that sets nothing known: not again and again */
    assert_int_equal(ranks_launch(2, argv, why, sizeof why), ERROR_RANKS);
    assert_non_null(strstr(why, "does not say as one of how many"));
}

/* ---- The watchdog ------------------------------------------------------------------------------ */

typedef struct Seen {
    char sentence[384];
    int aborted;
} Seen;

static void late(const char *sentence, void *user)
{
    snprintf(((Seen *)user)->sentence, sizeof((Seen *)user)->sentence, "%s", sentence);
}

static void aborted(void *self)
{
    __atomic_store_n(&((Seen *)self)->aborted, 1, __ATOMIC_RELEASE);
}

static void closed(void *self)
{
    (void)self;
}

static void test_a_rank_that_waits_too_long_is_told(void **state)
{
    (void)state;
    char why[256] = "";
    Seen seen = {{0}, 0};
    Transport table = {.abi = TRANSPORT_ABI, .abort = aborted, .close = closed, .self = &seen}, other = table;
    Ranks ranks = {.rank = 1, .size = 3, .transport = &table};
    assert_int_equal(ranks_watch(&ranks, 0, late, &seen, why, sizeof why), 0); /* not watched */
    ranks_waiting_(&table, &(RanksWait){"gathering", NULL, 64, 1});
    assert_int_equal(ranks_watch(&ranks, 1, late, &seen, why, sizeof why), 0);
    assert_int_equal(ranks_watch(&ranks, 1, late, &seen, why, sizeof why), ERROR_STATE);
    for (int i = 1; i < 6; i++) { /* longer than the limit in all, each shorter */
        ranks_waiting_(&table, &(RanksWait){"gathering", NULL, 64, (uint64_t)i});
        usleep(300000);
        ranks_done_(&table);
    }
    ranks_waiting_(&other,
                   &(RanksWait){"gathering", NULL, 64, 6}); /* another rank's, a thread of this process */
    usleep(1300000);
    assert_int_equal(__atomic_load_n(&seen.aborted, __ATOMIC_ACQUIRE), 0);
    ranks_waiting_(&table, &(RanksWait){"exchanging gradients", "layers.1.attn", 640, 7});
    for (int i = 0; i < 100 && !__atomic_load_n(&seen.aborted, __ATOMIC_ACQUIRE); i++)
        usleep(50000);
    assert_int_equal(__atomic_load_n(&seen.aborted, __ATOMIC_ACQUIRE), 1);
    assert_non_null(strstr(seen.sentence, "rank 1 of 3 has waited 1 s for the others while exchanging "
                                          "gradients at layers.1.attn, collective 7 with 640 bytes"));
    ranks_leave(&ranks, 0);
    ranks.transport = &table; /* and again */
    assert_int_equal(ranks_watch(&ranks, 60, late, &seen, why, sizeof why), 0);
    ranks_leave(&ranks, 1);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(test_launchers_are_known, clean),
        cmocka_unit_test_teardown(test_alone_is_one_rank, clean),
        cmocka_unit_test_teardown(test_without_a_launcher_it_says_the_command, clean),
        cmocka_unit_test_teardown(test_a_plugin_is_opened_and_closed, clean),
        cmocka_unit_test_teardown(test_numbers_that_differ_are_refused, clean),
        cmocka_unit_test_teardown(test_plugins_that_do_not_serve_are_refused, clean),
        cmocka_unit_test_teardown(test_a_plugin_that_is_missing_is_named, clean),
        cmocka_unit_test_teardown(test_a_program_starts_its_ranks, clean),
        cmocka_unit_test_teardown(test_what_cannot_be_started_says_the_command, clean),
        cmocka_unit_test_teardown(test_a_rank_that_waits_too_long_is_told, clean),
    };
    if (argc > 1) { /* in a process of its own: test_a_plugin_that_is_missing…, test_a_program_starts… */
        char why[1024] = "";
        Ranks ranks;
        int launch = !strcmp(argv[1], "launch");
        int code = launch ? ranks_launch(atoi(argv[2]), argv, why, sizeof why)
                          : ranks_join(&ranks, RANKS_DDP, 0, why, sizeof why);
        fprintf(stderr, "%s\n", why);
        return code;
    }
    return cmocka_run_group_tests(tests, setup, NULL);
}
