/* Wheels of Python put cuBLAS where no linker looks (cu13: nvidia/cu13/lib; cu12: nvidia/cublas/lib), and
 * many a machine with a card has it nowhere else. */
#include "cuda_find.h"

#include <dlfcn.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define COUNT(list) (sizeof(list) / sizeof((list)[0]))

void *cuda_find_driver(char *why, size_t size)
{
    const char *own = getenv("BRIM_CUDA_DRIVER");
    void *library = dlopen(own ? own : "libcuda.so.1", RTLD_NOW | RTLD_GLOBAL);
    if (library)
        return library;
    if (own)
        snprintf(why, size, "BRIM_CUDA_DRIVER names a library that cannot be opened: %s", dlerror());
    else
        snprintf(why, size,
                 "NVIDIA's driver is not found: libcuda.so.1 is not in the system's folders nor in "
                 "LD_LIBRARY_PATH "
                 "(%s); version 525 or later is needed",
                 dlerror());
    return NULL;
}

/* Which of them, best first. */
static const struct {
    const char *file, *light; /* cuBLASLt, which it needs, lies beside it: wheels do not say so */
    int driver;
} versions[] = {{"libcublas.so.13", "libcublasLt.so.13", CUDA_DRIVER_OF_BLAS_13},
                {"libcublas.so.12", "libcublasLt.so.12", CUDA_OLDEST_DRIVER}};

/* What is looked for, and what was met on the way that does not do. */
typedef struct Search {
    int driver;
    char *path;
    size_t size;
    char too_new[512], broken[512];
} Search;

static void *open_file(Search *search, const char *path, size_t version)
{
    char light[1100];
    const char *slash = strrchr(path, '/');
    if (search->driver < versions[version].driver) {
        snprintf(search->too_new, sizeof search->too_new, "%.500s", path);
        return NULL;
    }
    if (slash) {
        snprintf(light, sizeof light, "%.*s/%s", (int)(slash - path), path, versions[version].light);
        dlopen(light, RTLD_NOW | RTLD_GLOBAL);
    }
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (library)
        snprintf(search->path, search->size, "%s", path);
    else if (slash)
        snprintf(search->broken, sizeof search->broken, "%.500s", dlerror());
    return library;
}

/* A folder, which may be a pattern. */
static void *look_in(Search *search, const char *folder)
{
    void *library = NULL;
    for (size_t v = 0; v < COUNT(versions) && !library; v++) {
        char pattern[1024];
        glob_t found;
        snprintf(pattern, sizeof pattern, "%s/%s", folder, versions[v].file);
        if (glob(pattern, 0, NULL, &found))
            continue;
        for (size_t i = 0; i < found.gl_pathc && !library; i++)
            library = open_file(search, found.gl_pathv[i], v);
        globfree(&found);
    }
    return library;
}

static void *look_in_wheels(Search *search, const char *root)
{
    static const char *const packages[] = {"site-packages", "dist-packages"};
    static const char *const folders[] = {"cu13", "cublas"};
    void *library = NULL;
    for (size_t i = 0; root && i < COUNT(packages) * COUNT(folders) && !library; i++) {
        char pattern[900];
        snprintf(pattern, sizeof pattern, "%s/lib/python3*/%s/nvidia/%s/lib", root, packages[i / 2],
                 folders[i % 2]);
        library = look_in(search, pattern);
    }
    return library;
}

static void *look_everywhere(Search *search)
{
    static const char *const toolkits[] = {"/usr/local/cuda/lib64", "/usr/local/cuda-1[23]*/lib64",
                                           "/opt/cuda/lib64"};
    char user[800];
    const char *home = getenv("HOME");
    snprintf(user, sizeof user, "%s/.local", home ? home : "");
    const char *const wheels[] = {getenv("VIRTUAL_ENV"), getenv("CONDA_PREFIX"), home ? user : NULL,
                                  "/usr/local", "/usr"};
    void *library = NULL;
    for (size_t v = 0; v < COUNT(versions) && !library; v++)
        if (search->driver >= versions[v].driver)
            library = open_file(search, versions[v].file, v);
    for (size_t i = 0; i < COUNT(toolkits) && !library; i++)
        library = look_in(search, toolkits[i]);
    for (size_t i = 0; i < COUNT(wheels) && !library; i++)
        library = look_in_wheels(search, wheels[i]);
    return library;
}

/* What one entry names: a folder, or a file of any version. */
static void *look_at_own(Search *search, const char *own, char *why, size_t size)
{
    struct stat entry;
    void *library;
    if (stat(own, &entry) == 0 && S_ISDIR(entry.st_mode)) {
        library = look_in(search, own);
        if (!library && !search->too_new[0] && !search->broken[0])
            snprintf(why, size, "BRIM_CUBLAS names the folder %s, where neither %s nor %s is", own,
                     versions[0].file, versions[1].file);
        return library;
    }
    library = dlopen(own, RTLD_NOW | RTLD_LOCAL);
    if (library)
        snprintf(search->path, search->size, "%s", own);
    else
        snprintf(why, size, "BRIM_CUBLAS names a library that cannot be opened: %s", dlerror());
    return library;
}

void *cuda_find_blas(int driver, char *path, size_t path_size, char *why, size_t size)
{
    Search search = {.driver = driver, .path = path, .size = path_size};
    const char *own = getenv("BRIM_CUBLAS"), *wheel = driver < CUDA_DRIVER_OF_BLAS_13 ? "-cu12" : "";
    why[0] = '\0';
    void *library = own ? look_at_own(&search, own, why, size) : look_everywhere(&search);
    if (library || why[0])
        return library;
    if (search.broken[0])
        snprintf(why, size, "cuBLAS cannot be opened: %s", search.broken);
    else if (search.too_new[0])
        snprintf(why, size,
                 "%s needs driver 580 or later, and this one serves CUDA %d.%d: cuBLAS 12 works with it (pip "
                 "install nvidia-cublas-cu12)",
                 search.too_new, driver / 1000, driver % 1000 / 10);
    else
        snprintf(why, size,
                 "cuBLAS (libcublas.so.%s12) is not found in the system's folders, LD_LIBRARY_PATH, "
                 "/usr/local/cuda or "
                 "the nvidia folders of Python wheels (VIRTUAL_ENV, CONDA_PREFIX, ~/.local, /usr): install "
                 "it (pip "
                 "install nvidia-cublas%s), or name its file or folder in BRIM_CUBLAS",
                 driver < CUDA_DRIVER_OF_BLAS_13 ? "" : "13 or .", wheel);
    return NULL;
}

/* The first that opens of what a pattern finds; why the last one did not. */
static void *open_first(const char *pattern, char *broken, size_t size)
{
    void *library = NULL;
    glob_t found;
    if (glob(pattern, 0, NULL, &found))
        return NULL;
    for (size_t i = 0; i < found.gl_pathc && !library; i++) {
        library = dlopen(found.gl_pathv[i], RTLD_NOW | RTLD_LOCAL);
        if (!library)
            snprintf(broken, size, "%s", dlerror());
    }
    globfree(&found);
    return library;
}

void *cuda_find_nccl(char *why, size_t size)
{
    static const char *const packages[] = {"site-packages", "dist-packages"};
    char user[800], broken[160] = "", pattern[900];
    const char *own = getenv("BRIM_NCCL"), *home = getenv("HOME"), *conda = getenv("CONDA_PREFIX");
    snprintf(user, sizeof user, "%s/.local", home ? home : "");
    const char *roots[] = {getenv("VIRTUAL_ENV"), conda, home ? user : NULL, "/usr/local", "/usr"};
    void *library = dlopen(own ? own : "libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library && own) {
        snprintf(why, size, "BRIM_NCCL names a library that cannot be opened: %s", dlerror());
        return NULL;
    }
    if (!library)
        library = open_first("/usr/local/cuda*/lib*/libnccl.so.2", broken, sizeof broken);
    if (!library && conda) {
        snprintf(pattern, sizeof pattern, "%s/lib/libnccl.so.2", conda);
        library = open_first(pattern, broken, sizeof broken);
    }
    for (size_t i = 0; i < COUNT(roots) * COUNT(packages) && !library; i++) {
        snprintf(pattern, sizeof pattern, "%s/lib/python3*/%s/nvidia/nccl/lib/libnccl.so.2", roots[i / 2],
                 packages[i % 2]);
        library = roots[i / 2] ? open_first(pattern, broken, sizeof broken) : NULL;
    }
    if (!library && broken[0])
        snprintf(why, size, "NCCL cannot be opened: %s", broken);
    else if (!library)
        snprintf(why, size,
                 "libnccl.so.2 is neither known to the linker, nor in CUDA's toolkit or a Python "
                 "wheel (nvidia-nccl-cu12, -cu13); BRIM_NCCL=FILE names one");
    return library;
}
