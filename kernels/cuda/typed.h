/* Compiles the file that KERNELS names once for each type of values: in it TYPED(name) is the kernel's name
 * with the type's (list.h: typed), REAL what is stored, TYPE its DType, LOAD(x, i) its value and STORE(y, i,
 * value). */
#include "values.h"

#define TYPED_(name, type) name##_##type

#define REAL               float
#define TYPE               DTYPE_F32
#define TYPED(name)        TYPED_(name, f32)
#define LOAD(x, i)         (((const float *)(x))[i])
#define STORE(y, i, value) (((float *)(y))[i] = (value))
#include KERNELS
#undef REAL
#undef TYPE
#undef TYPED
#undef LOAD
#undef STORE

#define REAL               uint16_t
#define TYPE               DTYPE_BF16
#define TYPED(name)        TYPED_(name, bf16)
#define LOAD(x, i)         half_from_bf16(((const uint16_t *)(x))[i])
#define STORE(y, i, value) (((uint16_t *)(y))[i] = half_to_bf16(value))
#include KERNELS
#undef TYPE
#undef TYPED
#undef LOAD
#undef STORE

#define TYPE               DTYPE_F16
#define TYPED(name)        TYPED_(name, f16)
#define LOAD(x, i)         half_from_f16(((const uint16_t *)(x))[i])
#define STORE(y, i, value) (((uint16_t *)(y))[i] = half_to_f16(value))
#include KERNELS
#undef REAL
#undef TYPE
#undef TYPED
#undef LOAD
#undef STORE
#undef KERNELS
