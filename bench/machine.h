/* The machine a benchmark runs on, and what others do on it meanwhile. */
#ifndef BRIM_BENCH_MACHINE_H
#define BRIM_BENCH_MACHINE_H

#include <stdio.h>
#include <sys/times.h>
#include <unistd.h>

typedef struct MachineName {
    char text[128];
} MachineName;

/* Of the processor; empty where the system does not say. */
static MachineName machine_name(void)
{
    MachineName name = {""};
    char line[256];
    FILE *info = fopen("/proc/cpuinfo", "re");
    while (info && fgets(line, sizeof line, info))
        if (sscanf(line, "model name : %127[^\n]", name.text) == 1)
            break;
    if (info)
        fclose(info);
    return name;
}

/* Seconds that all processors spent on work so far, or 0 where the system does not say. */
static double machine_busy(void)
{
    unsigned long long t[8] = {0}; /* user nice system idle iowait irq softirq steal */
    FILE *file = fopen("/proc/stat", "re");
    if (!file)
        return 0;
    int read = fscanf(file, "cpu %llu %llu %llu %llu %llu %llu %llu %llu", &t[0], &t[1], &t[2], &t[3], &t[4],
                      &t[5], &t[6], &t[7]);
    fclose(file);
    return read == 8 ? (double)(t[0] + t[1] + t[2] + t[5] + t[6] + t[7]) / (double)sysconf(_SC_CLK_TCK) : 0;
}

/* Seconds of processor time of this process and the children it has waited for. */
static double own_busy(void)
{
    struct tms t;
    times(&t);
    return (double)(t.tms_utime + t.tms_stime + t.tms_cutime + t.tms_cstime) / (double)sysconf(_SC_CLK_TCK);
}

#endif
