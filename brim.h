/* The umbrella: include this, link -lbrim. */
#ifndef BRIM_H
#define BRIM_H

#define BRIM_VERSION_MAJOR 0
#define BRIM_VERSION_MINOR 1
#define BRIM_VERSION_PATCH 0

#include "data/data.h"
#include "text/tokenizer.h"
#include "io/saved_run.h"
#include "io/io.h"
#include "io/safetensors.h"
#include "io/weights.h"
#include "memtrack/memtrack.h"
#include "nn/nn.h"
#include "nn/sample.h"
#include "optim/optim.h"
#include "device/cards.h"
#include "estimate/formulae.h"
#include "plan/plan.h"
#include "estimate/textbook.h"
#include "report/exports.h"
#include "report/html.h"
#include "report/panel.h"
#include "estimate/pytorch_allocator.h"
#include "report/report.h"
#include "report/runlog.h"
#include "report/runlog_read.h"
#include "tensor/batch.h"
#include "tensor/op.h"
#include "tensor/tensor.h"

#endif
