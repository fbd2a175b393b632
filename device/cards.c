/* GPUs and their memory as drivers report it, and finding one by what people call it.
 *
 * Figures are to 0.01 GiB as printed by public logs: "total capacity" of PyTorch's out-of-memory message, or
 * total_memory of its device properties. Where drivers differ, the figure is the commonest of recent ones.
 * Compute capability and multiprocessors are those of NVIDIA's data sheets; of two forms of a card (SXM and
 * PCIe) the larger one. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>

#include "../base/nearest_.h"
#include "cards.h"
#include "cuda.h"

#define GIB(n) ((uint64_t)((n) * (double)(UINT64_C(1) << 30)))
#define OOM    "PyTorch's out-of-memory message"
#define TOTAL  "PyTorch's device properties"

static const Card cards[] = {
    {"rtx-3080", "NVIDIA GeForce RTX 3080 10GB", GIB(9.78), 86, 68, OOM},
    {"rtx-4070", "NVIDIA GeForce RTX 4070 12GB", GIB(11.6), 89, 46,
     TOTAL ", to 0.1 GiB; nvidia-smi 12282 MiB"},
    {"rtx-3060", "NVIDIA GeForce RTX 3060 12GB", GIB(11.75), 86, 28, OOM},
    {"t4", "Tesla T4 16GB", GIB(14.75), 75, 40, OOM "; 14.56 with drivers of 2025"},
    {"rtx-5080", "NVIDIA GeForce RTX 5080 16GB", GIB(15.47), 120, 84, TOTAL},
    {"rtx-4080", "NVIDIA GeForce RTX 4080 16GB", GIB(15.56), 89, 76, TOTAL " (SUPER); nvidia-smi 16376 MiB"},
    {"v100-16", "Tesla V100 16GB", GIB(15.78), 70, 80, OOM},
    {"p100", "Tesla P100 16GB", GIB(15.89), 60, 56, TOTAL},
    {"l4", "NVIDIA L4 24GB", UINT64_C(23659151360), 89, 58, "cudaMemGetInfo; nvidia-smi 23034 MiB"},
    {"a10g", "NVIDIA A10G 24GB", GIB(22.06), 86, 80, TOTAL},
    {"a10", "NVIDIA A10 24GB", GIB(22.07), 86, 72, TOTAL "; others print 22.18"},
    {"a30", "NVIDIA A30 24GB", GIB(23.53), 80, 56, OOM},
    {"rtx-4090", "NVIDIA GeForce RTX 4090 24GB", GIB(23.64), 89, 128, OOM "; nvidia-smi 24564 MiB"},
    {"rtx-3090", "NVIDIA GeForce RTX 3090 24GB", GIB(23.70), 86, 82, OOM "; nvidia-smi 24576 MiB"},
    {"rtx-5090", "NVIDIA GeForce RTX 5090 32GB", GIB(31.36), 120, 170, OOM "; nvidia-smi 32607 MiB"},
    {"v100-32", "Tesla V100 32GB", GIB(31.74), 70, 80, OOM},
    {"a100-40", "NVIDIA A100 40GB", GIB(39.50), 80, 108, OOM},
    {"l40s", "NVIDIA L40S 48GB", GIB(44.39), 89, 142, OOM "; nvidia-smi 46068 MiB, ECC on"},
    {"rtx-6000-ada", "NVIDIA RTX 6000 Ada Generation 48GB", GIB(44.43), 89, 142,
     OOM "; nvidia-smi 46068 MiB"},
    {"rtx-a6000", "NVIDIA RTX A6000 48GB", GIB(47.54), 86, 84, OOM},
    {"h100", "NVIDIA H100 80GB", GIB(79.11), 90, 132, OOM "; nvidia-smi 81559 MiB"},
    {"a100-80", "NVIDIA A100 80GB", GIB(79.25), 80, 108, OOM "; others print 79.14 to 79.33"},
    {"h200", "NVIDIA H200 141GB", GIB(139.80), 90, 132, OOM "; nvidia-smi 143771 MiB"},
    {"b200", "NVIDIA B200 180GB", GIB(178.35), 100, 148, "cudaGetDeviceProperties; nvidia-smi 183359 MiB"},
    {"mi300x", "AMD Instinct MI300X 192GB", GIB(191.69), 0, 304, OOM "; 191.98 with older drivers"},
};

enum { CARD_COUNT = sizeof cards / sizeof cards[0] };

int device_card_driver(int capability)
{
    enum { BLACKWELL = 100 };
    return capability < CUDA_OLDEST ? 0 : capability < BLACKWELL ? 525 : 570;
}

const Card *device_card_at(int i)
{
    return i >= 0 && i < CARD_COUNT ? &cards[i] : NULL;
}

/* ---- Names ----------------------------------------------------------------------------------- */

static int says_nothing(const char *word)
{
    static const char *const words[] = {
        "nvidia", "geforce", "tesla", "quadro", "amd",  "instinct", "rtx",  "gb",    "gib",  "generation",
        "gpu",    "sxm",     "sxm2",  "sxm3",   "sxm4", "sxm5",     "pcie", "hbm2e", "hbm3", "hbm3e",
    };
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (!strcmp(word, words[i]))
            return 1;
    return 0;
}

/* "80gb" -> "80" */
static void drop_unit(char *word)
{
    size_t digits = strspn(word, "0123456789");
    if (digits && (!strcmp(word + digits, "gb") || !strcmp(word + digits, "gib")))
        word[digits] = '\0';
}

/* "rtx4090" -> "4090" */
static char *drop_rtx(char *word)
{
    return strncmp(word, "rtx", 3) || !word[3] ? word : word + 3;
}

/* A name reduced to what tells cards apart: "NVIDIA A100-SXM4-80GB" and "a100 80" are both "a10080"; "" when
 * it is too long to be a card's. */
static NameKey key_of(const char *name)
{
    NameKey key = {""};
    size_t used = 0;
    for (const char *at = name; at && *at;) {
        char word[NAME_KEY];
        size_t length = 0;
        for (; isalnum((unsigned char)*at); at++) {
            if (length + 1 == sizeof word)
                return (NameKey){""};
            word[length++] = (char)tolower((unsigned char)*at);
        }
        word[length] = '\0';
        at += !length; /* a separator */
        drop_unit(word);
        const char *kept = drop_rtx(word);
        if (says_nothing(kept))
            continue;
        if (used + strlen(kept) >= sizeof key.text)
            return (NameKey){""};
        strcpy(key.text + used, kept);
        used += strlen(kept);
    }
    return key;
}

const Card *device_card(const char *name)
{
    NameKey key = key_of(name);
    if (!key.text[0])
        return NULL;
    for (int i = 0; i < CARD_COUNT; i++)
        if (!strcmp(key.text, key_of(cards[i].name).text) || !strcmp(key.text, key_of(cards[i].title).text))
            return &cards[i];
    return NULL;
}

/* ---- The nearest ----------------------------------------------------------------------------- */

static const char *card_name(int i, const void *user)
{
    (void)user;
    return i < CARD_COUNT ? cards[i].name : NULL;
}

CardText device_card_unknown(const char *name)
{
    CardText out;
    NearestText near = nearest_text(name ? name : "", &(NameList){.at = card_name, .key = key_of}, "");
    snprintf(out.text, sizeof out.text, "no card is called '%.40s'%.130s", name ? name : "",
             near.text[0] ? near.text : "; `brim gpus` lists them");
    return out;
}
