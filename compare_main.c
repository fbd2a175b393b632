#include "tests/pytorch_trace.h"
int main(int argc, char **argv)
{
    int good = 0, all = 0;
    for (int i = 1; i < argc; i++) {
        Trace t; PytorchJob job;
        if (trace_read(argv[i], &t)) { printf("cannot read %s\n", argv[i]); continue; }
        all++;
        if (trace_job(&t, &job)) printf("%s: not predicted\n", t.name);
        else { long at = trace_compare(&t, &job, argc < 4 ? stdout : NULL); printf("%s: %s %ld of %zu\n", t.name, at < 0 ? "EQUAL" : "differs", at, t.count); good += at < 0; }
        trace_free(&t);
    }
    printf("%d of %d equal\n", good, all);
}
