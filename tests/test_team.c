/* The thread team behind parallel regions: every iteration once, for any size, nested, and from several
 * threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <omp.h>
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../kernels/team.h"

enum { MOST = 9, ITEMS = 257 };

/* Adds 1 to each item in a region of `threads`. */
static void visit(int *seen, int threads)
{
#pragma omp parallel for schedule(static, 1) num_threads(threads)
    for (int i = 0; i < ITEMS; i++)
        seen[i]++;
}

static void each_item_once_for_any_size(void **state)
{
    (void)state;
    int seen[ITEMS] = {0}, rounds = 0;
    for (int repeat = 0; repeat < 20; repeat++)
        for (int threads = 1; threads <= MOST; threads++, rounds++)
            visit(seen, repeat % 2 ? threads : MOST + 1 - threads);
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(seen[i], rounds);
}

static void numbers_and_sizes(void **state)
{
    (void)state;
    for (int threads = 1; threads <= MOST; threads++) {
        int size[MOST] = {0}, parallel[MOST] = {0};
#pragma omp parallel num_threads(threads)
        {
            size[omp_get_thread_num()] = omp_get_num_threads();
            parallel[omp_get_thread_num()] = omp_in_parallel();
        }
        for (int i = 0; i < threads; i++) {
            assert_int_equal(size[i], threads);
            assert_int_equal(parallel[i] != 0, threads > 1);
        }
        assert_int_equal(omp_in_parallel(), 0);
    }
}

/* A region within a region runs on the thread that met it, and still counts as inside. */
static void nested_regions_are_serial(void **state)
{
    (void)state;
    atomic_int inner = 0, outside = 0;
#pragma omp parallel num_threads(3)
    {
#pragma omp parallel num_threads(4)
        {
            atomic_fetch_add(&inner, omp_get_num_threads());
#pragma omp parallel num_threads(2)
            if (!omp_in_parallel())
                atomic_fetch_add(&outside, 1);
        }
    }
    assert_int_equal(inner, 3);
    assert_int_equal(outside, 0);
}

static void barriers_hold(void **state)
{
    (void)state;
    int stage[4] = {0}, wrong = 0;
#pragma omp parallel num_threads(4)
    for (int round = 1; round <= 200; round++) {
        stage[omp_get_thread_num()] = round;
#pragma omp barrier
        for (int i = 0; i < 4; i++)
            if (stage[i] != round)
#pragma omp atomic write
                wrong = 1;
#pragma omp barrier
    }
    assert_int_equal(wrong, 0);
}

static void *visit_often(void *argument)
{
    for (int round = 0; round < 100; round++)
        visit(argument, 1 + round % 4);
    return NULL;
}

/* Each thread that starts regions has a team of its own, which ends with it. */
static void several_owners(void **state)
{
    (void)state;
    for (int repeat = 0; repeat < 3; repeat++) {
        static int seen[4][ITEMS];
        pthread_t thread[4];
        memset(seen, 0, sizeof seen);
        for (int i = 0; i < 4; i++)
            assert_int_equal(pthread_create(&thread[i], NULL, visit_often, seen[i]), 0);
        for (int i = 0; i < 4; i++)
            pthread_join(thread[i], NULL);
        for (int i = 0; i < 4; i++)
            for (int k = 0; k < ITEMS; k++)
                assert_int_equal(seen[i][k], 100);
    }
}

/* After a pause the workers sleep, and wake up again. */
static void asleep_and_back(void **state)
{
    (void)state;
    int seen[ITEMS] = {0};
    for (int round = 0; round < 5; round++) {
        nanosleep(&(struct timespec){.tv_nsec = 5000000}, NULL);
        visit(seen, 3);
    }
    for (int i = 0; i < ITEMS; i++)
        assert_int_equal(seen[i], 5);
    assert_true(team_processors() >= 1);
}

/* The child of a fork makes workers of its own. */
static void a_child_starts_anew(void **state)
{
    (void)state;
#ifdef __SANITIZE_THREAD__
    skip(); /* the thread sanitizer forbids threads after such a fork */
#endif
    int seen[ITEMS] = {0};
    visit(seen, 3);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20); /* rather die than hang */
        visit(seen, 3);
        int wrong = 0;
        for (int i = 0; i < ITEMS; i++)
            wrong |= seen[i] != 2;
        _exit(wrong);
    }
    int status = -1;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    visit(seen, 3);
    assert_int_equal(seen[ITEMS - 1], 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_item_once_for_any_size),
        cmocka_unit_test(numbers_and_sizes),
        cmocka_unit_test(nested_regions_are_serial),
        cmocka_unit_test(barriers_hold),
        cmocka_unit_test(several_owners),
        cmocka_unit_test(asleep_and_back),
        cmocka_unit_test(a_child_starts_anew),
    };
    return cmocka_run_group_tests_name("team", tests, NULL, NULL);
}
