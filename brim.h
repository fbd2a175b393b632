/* The umbrella: include this, link -lbrim. */
#ifndef BRIM_H
#define BRIM_H

#define BRIM_VERSION_MAJOR 0
#define BRIM_VERSION_MINOR 1
#define BRIM_VERSION_PATCH 0

#include "data/data.h"
#include "data/tokenizer.h"
#include "io/checkpoint.h"
#include "io/io.h"
#include "io/safetensors.h"
#include "io/weights.h"
#include "memtrack/memtrack.h"
#include "nn/nn.h"
#include "nn/sample.h"
#include "optim/optim.h"
#include "plan/cards.h"
#include "plan/formulae.h"
#include "plan/plan.h"
#include "plan/textbook.h"
#include "report/exports.h"
#include "report/html.h"
#include "report/panel.h"
#include "report/pytorch.h"
#include "report/report.h"
#include "report/runlog.h"
#include "report/runlog_read.h"
#include "tensor/batch.h"
#include "tensor/op.h"
#include "tensor/tensor.h"

#endif
