/* The events of a run log under the rules of PyTorch's allocator, for the report page. */
#ifndef BRIM_PAGE_REPLAY_INTERNAL_H
#define BRIM_PAGE_REPLAY_INTERNAL_H

#include "../report/html.h"

extern const PageReplay estimate_pytorch_page;

#endif
