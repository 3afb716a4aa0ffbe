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

/* ---- weight matrices ----------------------------------------------------------------------------------- */

/* A matrix W [outputs, inputs] of a linear layer, packed in panels of 32 outputs. The packed bytes describe
 * themselves, hold no pointers, and may be stored, memory-mapped and shared; keep them aligned to 64 bytes. */
enum {
  LLMC_MATRIX_FP32 = 0,
  LLMC_MATRIX_BF16 = 1, /* activations are rounded to bf16 too */
  LLMC_MATRIX_INT8 = 2, /* an fp32 scale per output, or an fp16 scale per output and group of 32 inputs (Q8_0) */
  LLMC_MATRIX_INT4 = 3, /* groups of 32, fp16 scale, zero point 8 (Q4_0) */
  LLMC_MATRIX_Q4_1 = 4, /* groups of 32, fp16 scale and fp16 minimum */
  LLMC_MATRIX_Q4_K = 5  /* blocks of 256: fp16 scale and minimum, 6-bit scale and minimum per group of 32 */
};

/* What rows are packed from: numbers, or the blocks of a GGUF file as they are. */
enum {
  LLMC_SOURCE_FP32 = 0,
  LLMC_SOURCE_BF16 = 1,
  LLMC_SOURCE_FP16 = 2,
  LLMC_SOURCE_Q8_0 = 3, /* into LLMC_MATRIX_INT8, group 32 */
  LLMC_SOURCE_Q4_0 = 4, /* into LLMC_MATRIX_INT4 */
  LLMC_SOURCE_Q4_1 = 5, /* into LLMC_MATRIX_Q4_1 */
  LLMC_SOURCE_Q4_K = 6  /* into LLMC_MATRIX_Q4_K */
};

typedef struct {
  int32_t kind;
  int32_t group; /* inputs per scale; 0: one scale per output, or none */
  int64_t outputs, inputs, bytes;
} llmc_matrix_info;

/* Bytes that a packed matrix takes; a negative llmc_status when the arguments are wrong. group: 0 or 32 for
 * LLMC_MATRIX_INT8, 0 otherwise. */
LLMC_API int64_t llmc_matrix_bytes(int32_t kind, int32_t group, int64_t outputs, int64_t inputs);
/* Starts a matrix in `packed`; every row must then be set. */
LLMC_API int32_t llmc_matrix_begin(int32_t kind, int32_t group, int64_t outputs, int64_t inputs, void* packed,
                                   int64_t bytes);
/* Sets rows [first, first + count) from rows `row_bytes` apart. Numbers are rounded to nearest even and quantised
 * symmetrically; NaN or infinity in a row to be quantised is LLMC_BAD_DATA. */
LLMC_API int32_t llmc_matrix_set_rows(void* packed, int64_t bytes, int64_t first, int64_t count, int32_t source,
                                      const void* rows, int64_t row_bytes);
/* Checks the header of packed bytes that come from elsewhere, and describes them. */
LLMC_API int32_t llmc_matrix_describe(const void* packed, int64_t bytes, llmc_matrix_info* info);
/* out[i] = row indices[i] as numbers of `type` (LLMC_FP32 or LLMC_BF16): the look-up of an embedding. */
LLMC_API int32_t llmc_matrix_gather(const void* packed, const int64_t* indices, int64_t count, int32_t type,
                                    void* out, int64_t out_stride);

/* ---- linear layers ------------------------------------------------------------------------------------- */

enum { LLMC_NONE = 0, LLMC_RELU = 1, LLMC_GELU = 2, LLMC_GELU_TANH = 3, LLMC_SILU = 4, LLMC_GELU_QUICK = 5,
       LLMC_RELU2 = 6, LLMC_TANH = 7 };

/* y = act(x Wt + bias) * multiply + residual, for x [rows, inputs] and y [rows, outputs]; fp32 accumulation.
 *
 * A row's result depends on nothing but the row: not on the number of rows, its place among them, or the threads. It
 * may differ between instruction sets in the last bits (bf16: the order within a pair; int8 and int4: none between
 * AVX-512 VNNI and AMX). y may be residual or multiply (same pointer and stride), and must not overlap x. */
typedef struct {
  const void* matrix;
  const void* x;
  void* y;
  const float* bias;      /* [outputs] or null */
  const void* residual;   /* [rows, outputs] of y_type or null */
  const void* multiply;   /* [rows, outputs] of y_type or null */
  int64_t rows;
  int64_t x_stride, y_stride, residual_stride, multiply_stride;
  int32_t x_type, y_type; /* LLMC_FP32 or LLMC_BF16 */
  int32_t activation;     /* of the list above */
  int32_t activation_bits;/* quantised matrices: 16 (weights only: rounding of x is 2^-15 of its group's largest)
                             or 8 (dynamic); 0 means 16. Others ignore it. */
} llmc_linear_call;

LLMC_API int32_t llmc_linear(const llmc_linear_call* call);
/* Several in one region of the thread pool, in order; a later one may read what an earlier one wrote. */
LLMC_API int32_t llmc_linears(const llmc_linear_call* calls, int32_t count);

/* ---- attention ------------------------------------------------------------------------------------------ */

/* Which keys each packed query may see. Queries of sequence b are rows q_starts[b] to q_starts[b + 1]. Its keys are rows
 * k_starts[b] to k_starts[b + 1], or with k_lengths the k_lengths[b] rows from k_starts[b] on. With span_starts (a tree of
 * tokens) they are first the rows of the spans span_starts[b] to span_starts[b + 1], each a pair (begin, end) of `spans`,
 * which all its queries see, and then its own n rows from k_starts[b] on, of which query i sees those set in row i of
 * visible[b] [n, n], lower triangular; a null entry, or a null table, means all of that triangle. Otherwise `causal`: query
 * i of n with m keys sees the first m - n + i + 1, and with a window the last `window` of these. */
typedef struct {
  int64_t sequences;
  const int64_t* q_starts;       /* [sequences + 1] */
  const int64_t* k_starts;       /* [sequences], [sequences + 1] where k_lengths and span_starts are null */
  const int64_t* k_lengths;      /* [sequences] or null */
  const int64_t* span_starts;    /* [sequences + 1] or null */
  const int64_t* spans;          /* [spans, 2] or null */
  const uint8_t* const* visible; /* [sequences] or null */
  int64_t window;                /* 0: none */
  int32_t causal;
} llmc_layout;

/* out = softmax(q k^T * scale + bias) v: q and out [queries, query_heads, width] of `type`, k and v [keys, key_heads, width]
 * of `key_type` (LLMC_FP32 or LLMC_BF16), strides from token to token. Query head h reads key head h / (query_heads /
 * key_heads). slopes [query_heads] or null: the ALiBi bias slope * (place of the key - place of the query). A query that
 * sees no key gets zeros. */
typedef struct {
  void* out;
  const void* q;
  const void* k;
  const void* v;
  int64_t out_stride, q_stride, k_stride, v_stride;
  int64_t queries, keys; /* rows of the buffers */
  const float* slopes;
  int32_t query_heads, key_heads, width;
  int32_t type, key_type;
  float scale;
} llmc_attention_call;

LLMC_API int32_t llmc_attention(const llmc_attention_call* call, const llmc_layout* layout);

/* ---- rows ----------------------------------------------------------------------------------------------- */

enum { LLMC_RMS_NORM = 0, LLMC_LAYER_NORM = 1 };

/* out = norm(x + add) * weight + bias over rows of `width` numbers of `type`; statistics in fp32. `sum`, where given, gets
 * x + add. Null: no such term. out may be x or add, sum too. */
typedef struct {
  void* out;
  const void* x;
  const void* add;
  void* sum;
  const void* weight; /* [width] of weight_type */
  const void* bias;
  int64_t rows, width;
  int64_t out_stride, x_stride, add_stride, sum_stride;
  int32_t kind, type, weight_type;
  float eps;
} llmc_norm_call;

LLMC_API int32_t llmc_norm(const llmc_norm_call* call);

/* Turns the first `turned` numbers of each head of x [rows, heads, width]: pairs (x[j], x[j + turned / 2]) by the angles
 * whose cos and sin [rows, turned / 2] are given; the rest pass through. Row i goes to row out_rows[i] of the out_count rows
 * of `out` (null: row i), such as a cache of keys; with turned 0 this copies values there. out may be x. */
typedef struct {
  void* out;
  const void* x;
  const float* cos;
  const float* sin;
  const int64_t* out_rows;
  int64_t rows, out_count;
  int64_t out_stride, x_stride, angle_stride;
  int32_t heads, width, turned;
  int32_t type, out_type;
} llmc_rotary_call;

LLMC_API int32_t llmc_rotary(const llmc_rotary_call* call);

/* out = act(x) * up over rows of `width` numbers; up may be null. out may be x or up. */
typedef struct {
  void* out;
  const void* x;
  const void* up;
  int64_t rows, width;
  int64_t out_stride, x_stride, up_stride;
  int32_t type, activation;
} llmc_activation_call;

LLMC_API int32_t llmc_activation(const llmc_activation_call* call);

/* ---- vocabulary head ------------------------------------------------------------------------------------ */

/* Of the scores x Wt + bias [rows, vocabulary], which are never kept: best [rows] gets the place of the largest, the first
 * of equal ones; sums [rows] the log of the sum of their exponentials; logprobs [target_count] the score of targets[i] in row
 * target_rows[i] (ascending; null: i) less that sum. Null: not wanted. Alone, `best` costs no exponentials. */
typedef struct {
  const void* matrix;
  const void* x;
  const float* bias;
  const int64_t* targets;
  const int64_t* target_rows;
  float* logprobs;
  float* sums;
  int64_t* best;
  int64_t rows, x_stride, target_count;
  int32_t x_type, activation_bits;
} llmc_head_call;

LLMC_API int32_t llmc_head(const llmc_head_call* call);

/* ---- programs ------------------------------------------------------------------------------------------- */

/* A forward pass as a list of steps over fp32 buffers, run in one region of the threads. A buffer has a row for each of the N
 * tokens of a pass, or for each of its R wanted rows. Buffer -1: none. */
typedef struct {
  int64_t width;
  int32_t wanted;   /* 0: N rows, 1: R rows */
  int32_t external; /* 1: the rows lie in pass.output */
} llmc_buffer;

enum {
  /* out = weight[token] + bias[position] + extra[type], times `number` before the additions when it is not 0. weight: a table
   * of type `kind` [weight_rows, width], or with kind LLMC_PACKED a packed fp32 or bf16 matrix; bias and extra: tables of
   * `second_type` [bias_rows / extra_rows, width] or null. Without types in the pass, row 0 of extra is added. */
  LLMC_STEP_EMBED = 0,
  /* out = norm of `kind` (in), weight and bias of `second_type`, eps = number. */
  LLMC_STEP_NORM = 1,
  /* out = act(in Wt + bias) + residual: weight a packed matrix, bias fp32, activation `kind`, `activation_bits`. */
  LLMC_STEP_LINEAR = 2,
  /* out = act(gate) * up, where the outputs of the matrix are gate 0-31, up 0-31, gate 32-63, up 32-63, ...: in the width of
   * out, a multiple of 32. No bias. */
  LLMC_STEP_GATED = 3,
  /* out [N, turned] gets cos, then sin, of position * weight[j]: weight fp32 [turned / 2]. */
  LLMC_STEP_ANGLES = 4,
  /* in [N, query heads, key heads, key heads again for values]: turns queries in place by the angles of buffer `other`, or not
   * when that is -1, and keys likewise. With a cache they go to its rows, and the values too. */
  LLMC_STEP_STORE = 5,
  /* out [N, query_heads * width] = attention of the queries in `in`, laid out as for LLMC_STEP_STORE, over its keys and values
   * or those in the cache, by the layout of the pass, with `window`; number: scale of the scores; extra: ALiBi slopes; keys and
   * values may be rounded to `second_type`. */
  LLMC_STEP_ATTENTION = 6,
  /* out [R] = rows of in [N] named by pass.wanted. */
  LLMC_STEP_GATHER = 7
};

enum { LLMC_PACKED = 16 };

typedef struct {
  int32_t op, in, out;
  int32_t other; /* LINEAR: residual, STORE: angles; a buffer or -1 */
  int32_t kind, second_type, activation_bits;
  int32_t query_heads, key_heads, width, turned, layer;
  float number;
  int32_t unused;
  int64_t window;
  const void* weight;
  const void* bias;
  const void* extra;
  int64_t weight_rows, bias_rows, extra_rows;
} llmc_step;

/* One pass. Keys of layer l are at keys + l * layer_stride, [cache_count, key_heads, width] of cache_type; keys null: no cache,
 * the layout is over the rows of the pass. positions, types, wanted (null: all rows), output: null where
 * no step needs them. */
typedef struct {
  int64_t rows;
  const int64_t* tokens;
  const int64_t* positions;
  const int64_t* types;
  const llmc_layout* layout;
  void* keys;
  void* values;
  const int64_t* cache_rows; /* [rows]: where new tokens go */
  int64_t cache_count, layer_stride;
  int32_t cache_type, layers;
  const int64_t* wanted;
  int64_t wanted_count;
  float* output;
  int64_t output_stride;
} llmc_pass;

typedef struct llmc_program llmc_program;

/* Checks the steps and keeps a copy of them; weights and tables stay the caller's and must outlive the program. */
LLMC_API int32_t llmc_program_new(const llmc_step* steps, int32_t step_count, const llmc_buffer* buffers,
                                  int32_t buffer_count, llmc_program** program);
LLMC_API void llmc_program_free(llmc_program* program);
/* Runs one pass. Several threads may run the same program at a time. */
LLMC_API int32_t llmc_program_run(const llmc_program* program, const llmc_pass* pass);
/* Adds to nanoseconds[0..7] what the calling thread spends in each kind of step, waiting included, from now on; null: no more. */
LLMC_API void llmc_program_profile(double* nanoseconds);

#ifdef __cplusplus
}
#endif
#endif
