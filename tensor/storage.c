/* Storage: the bytes of a tensor with a reference count, and their books. Headers (tensor.c) come and go
 * without it. */
#include <inttypes.h>
#include <string.h>

#include "card_.h"

Storage *storage_raw_(Context *context, int64_t bytes, MemComponent component)
{
    Storage *storage = host_alloc(sizeof *storage);
    if (!storage)
        return NULL;
    storage->ledger = context->ledger;
    if (memtrack_alloc(storage->ledger, (uint64_t)bytes, component, &storage->block) != 0) {
        const MemStats *stats = memtrack_stats(storage->ledger);
        error_raise(ERROR_MEMORY, "out of memory: %" PRId64 " bytes for %s; %" PRIu64 " bytes are in use",
                    bytes, memtrack_component_name(component), stats->live);
        host_free(context, storage, sizeof *storage);
        return NULL;
    }
    storage->refs = 1;
    return storage;
}

Storage *storage_new(Context *context, int64_t bytes, MemComponent component)
{
    return context->card && card_begin_(context) ? NULL : storage_raw_(context, bytes, component);
}

void storage_retain(Storage *storage)
{
    storage->refs++;
}

void storage_release(Context *context, Storage *storage)
{
    if (!storage || --storage->refs > 0)
        return;
    memtrack_free(storage->ledger, &storage->block);
    host_free(context, storage, sizeof *storage);
}

void storage_read(const Storage *storage, uint64_t first, uint64_t bytes, void *to)
{
    const MemDevice *device = memtrack_ledger_device(storage->ledger);
    const char *from = (const char *)storage->block.data + first;
    if (!device) {
        memcpy(to, from, (size_t)bytes);
        return;
    }
    device->read(device->user, from, bytes, to);
    card_answers_(context_here());
}

void storage_write(const Storage *storage, uint64_t first, uint64_t bytes, const void *from)
{
    const MemDevice *device = memtrack_ledger_device(storage->ledger);
    char *to = (char *)storage->block.data + first;
    if (device)
        device->write(device->user, to, bytes, from);
    else
        memcpy(to, from, (size_t)bytes);
}

void storage_clear(const Storage *storage)
{
    const MemDevice *device = memtrack_ledger_device(storage->ledger);
    if (device)
        device->clear(device->user, storage->block.data, storage->block.requested);
    else
        memset(storage->block.data, 0, (size_t)storage->block.requested);
}
