/* The C interface of llmasos' CPU kernels. No PyTorch, no Python: pointers, sizes and strides.
 *
 * Conventions. Every function that can fail returns an llmc_status. Sizes and strides count elements unless the
 * name says bytes. Rows may be strided; the last dimension is contiguous. Buffers may have any alignment that
 * their element type allows. Nothing is retained: the caller owns every buffer. Functions may be called from
 * several threads; they share one pool, and a call that finds it taken runs alone. Results do not depend on the
 * number of threads.
 */
#ifndef LLMASOS_CPU_H
#define LLMASOS_CPU_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LLMC_ABI 1
#define LLMC_API __attribute__((visibility("default")))

typedef enum {
  LLMC_OK = 0,
  LLMC_BAD_ARGUMENT = -1, /* a null pointer, a negative size, an unknown code */
  LLMC_BAD_SHAPE = -2,    /* sizes that do not fit each other or the kind */
  LLMC_UNSUPPORTED = -3,  /* a combination that no kernel covers */
  LLMC_NO_MEMORY = -4,
  LLMC_BAD_DATA = -5      /* packed or quantised bytes that are not what they claim to be */
} llmc_status;

/* Element types of activations and of rows to pack. */
enum { LLMC_FP32 = 0, LLMC_BF16 = 1, LLMC_FP16 = 2 };

/* ---- library ------------------------------------------------------------------------------------------- */

LLMC_API int32_t llmc_abi(void);                   /* LLMC_ABI of the build; callers refuse another one */
LLMC_API const char* llmc_isa(void);               /* level in use: "portable", "avx2", "avx512", "amx" */
LLMC_API const char* llmc_machine_isa(void);       /* the highest level of this machine */
LLMC_API const char* llmc_features(void);          /* space separated features in use, e.g. "avx2 avx512 vnni" */
LLMC_API const char* llmc_status_text(int32_t status);

/* ---- threads ------------------------------------------------------------------------------------------- */

LLMC_API int32_t llmc_processors(void);            /* processors this process may run on */
LLMC_API int32_t llmc_threads(void);               /* threads of the pool, the caller included */
LLMC_API int32_t llmc_set_threads(int32_t count);  /* 1..256; default: one per processor */
LLMC_API int32_t llmc_set_affinity(const int32_t* processors, int32_t count); /* workers only; 0 frees them */
LLMC_API int32_t llmc_thread_processors(int32_t* out, int32_t capacity);      /* last seen; returns how many */
LLMC_API int32_t llmc_set_spin(int32_t microseconds);                         /* idle spinning before sleep */
/* Runs `count` empty regions, or one region of `count` barriers; returns nanoseconds per region or barrier. */
LLMC_API double llmc_threads_cost(int32_t count, int32_t barriers);

#ifdef __cplusplus
}
#endif
#endif
