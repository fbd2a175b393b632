/* The umbrella: include this, link -lbrim. What it includes is public: exported and installed; no other
 * header is. */
#ifndef BRIM_H
#define BRIM_H

#define BRIM_VERSION_MAJOR 0
#define BRIM_VERSION_MINOR 11
#define BRIM_VERSION_PATCH 0

#include "base/error.h"
#include "data/data.h"
#include "text/tokenizer.h"
#include "io/adapter.h"
#include "io/saved_run.h"
#include "io/io.h"
#include "io/safetensors.h"
#include "io/weights.h"
#include "memtrack/memtrack.h"
#include "nn/lora.h"
#include "nn/nn.h"
#include "nn/sample.h"
#include "optim/optim.h"
#include "plan/plan.h"
#include "ranks/ranks.h"
#include "report/report.h"
#include "tensor/batch.h"
#include "tensor/context.h"
#include "tensor/op.h"
#include "tensor/ops.h"
#include "tensor/precision.h"
#include "tensor/tensor.h"

#endif
