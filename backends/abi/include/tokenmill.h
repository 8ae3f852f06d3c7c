/* Tokenmill backend ABI, major 1: one step of a language model, no more.
 *
 * A backend is a shared library that loads a model directory and computes ragged batches of tokens
 * against a paged KV cache. The host owns requests, text, scheduling and every KV block id; the
 * backend owns weights, devices and the memory behind the block ids, and knows no request.
 *
 * Rules
 * 1. One exported function: tm_backend(major). NULL means that major is not spoken here.
 * 2. A struct that begins with `size` is written with the writer's sizeof. A reader treats a missing
 *    tail as zero; such structs grow at the end only. All other structs are frozen within a major.
 * 3. The caller owns every pointer it passes, for the duration of the call only (submit and sample
 *    copy what they need). The callee owns only tm_model, and the rows that `logits` lends.
 * 4. Only load, unload, wait, topk and logits may block on the device. submit and sample only queue.
 * 5. [M] one thread at a time per model; [T] any thread, also while an [M] call runs.
 *    No call unwinds, aborts or exits.
 * 6. Steps run in ticket order. Work of ticket n+1 sees all KV that ticket n wrote, so the host may
 *    hand a freed block to a later ticket at once.
 * 7. A failed call changes nothing, except that TM_LOST means `unload` is the only call left.
 *
 * Manifest: the library carries a section named TM_MANIFEST_SECTION with UTF-8 lines `key=value`:
 * `abi=1.0`, `name=…`, `version=…`, `description=…`. The host reads it from the file before it
 * opens the library, so that a wrong one is refused without running any of its code.
 */
#ifndef TOKENMILL_H
#define TOKENMILL_H
#include <stddef.h>
#include <stdint.h>
#ifdef __cplusplus
extern "C" {
#endif

#define TM_MAJOR 1
#define TM_MINOR 0

#if defined(__APPLE__)
#define TM_MANIFEST_SECTION "__DATA,__tokenmill"
#else
#define TM_MANIFEST_SECTION ".tokenmill"
#endif
#if defined(__has_attribute)
#if __has_attribute(retain) /* also where the linker drops unused sections */
#define TM_RETAIN __attribute__((retain))
#endif
#endif
#ifndef TM_RETAIN
#define TM_RETAIN
#endif
/* TM_MANIFEST("abi=1.0\nname=mine\nversion=0.1.0\ndescription=what it is\n"); at file scope. */
#define TM_MANIFEST(text) \
    TM_RETAIN __attribute__((used, section(TM_MANIFEST_SECTION))) static const char tm_manifest[] = text

typedef struct tm_model tm_model; /* one loaded model, all its ranks */
typedef uint64_t tm_ticket;       /* a submitted step; 1, 2, 3, … per model */

typedef int32_t tm_code;
enum {
    TM_OK = 0,
    TM_INVALID = 1,     /* an argument breaks this contract; the message names it */
    TM_UNSUPPORTED = 2, /* the model or an option needs something this backend lacks */
    TM_NO_MEMORY = 3,   /* too little device or host memory */
    TM_AGAIN = 4,       /* `depth` tickets are alive: release one first */
    TM_TIMEOUT = 5,     /* wait: not finished within `ns`; call again */
    TM_LOST = 6,        /* the device is gone; unload is the only call left */
    TM_INTERNAL = 7     /* a defect of the backend */
};

typedef struct {
    char text[256]; /* NUL-terminated UTF-8; written on failure only; the pointer may be NULL */
} tm_message;

typedef struct {
    size_t size;
    const char *dir;          /* config.json and *.safetensors; UTF-8 path */
    const int32_t *devices;   /* one ordinal per rank; the same ordinal may appear twice */
    uint32_t n_devices;       /* ranks; n_devices / tensor_parallel = pipeline stages */
    uint32_t tensor_parallel; /* ranks that share each layer; divides n_devices */
    uint32_t block_tokens;    /* tokens per KV block: a power of two, 1..256 */
    uint32_t max_tokens;      /* tokens of one batch, at most */
    uint32_t max_rows;        /* logits rows of one batch, at most */
    uint32_t max_seqs;        /* sequences of one batch, at most */
    uint32_t depth;           /* tickets alive (submitted, not released) at once: 1..4 */
    uint32_t reserved;
    uint64_t kv_bytes;        /* KV arena over all ranks; 0 = the backend chooses */
    const char *options;      /* lines `key=value` of this backend's own (dtype=bf16, kv_dtype=f32,
                                 threads=2, …), or NULL. An unknown key is TM_INVALID. */
    void (*progress)(void *user, uint64_t done, uint64_t total); /* weight bytes; may be NULL;
                                 called on the thread that called load */
    void *user;
} tm_load;

typedef struct {
    size_t size;             /* in; the rest is out */
    uint32_t vocab;          /* logits per row */
    uint32_t max_context;    /* positions the model was made for */
    uint32_t n_blocks;       /* KV blocks; valid ids are 0..n_blocks-1 */
    uint32_t block_tokens;   /* this and the next line as asked for */
    uint32_t max_tokens, max_rows, max_seqs, depth;
    uint64_t weight_bytes;   /* summed over ranks */
    uint64_t kv_block_bytes; /* one block, all layers, summed over ranks */
    char arch[32];           /* "llama", "qwen3", … */
    char device[64];         /* "CPU, 2 threads, AMX" */
    char weights[32];        /* "bf16", "f32", "fp8", "awq-int4-g128" */
} tm_info;

/* A step. Sequence i computes tokens[seq_start[i] .. seq_start[i+1]] at positions seq_pos[i], … and
 * attends to everything before them through its blocks: position p lies in
 * blocks[block_start[i] + p / block_tokens] at offset p % block_tokens. What it attends to was written
 * by earlier steps, by copies of this step, or by the sequence itself. */
typedef struct {
    size_t size;
    const int32_t *tokens;       /* >= 0: a token id; -1-r: what row r of the previous ticket sampled */
    const uint32_t *seq_start;   /* n_seqs + 1, first 0, each larger than the one before, last = number
                                    of tokens */
    const uint32_t *seq_pos;     /* n_seqs: position of the sequence's first token of this step */
    const uint32_t *block_start; /* n_seqs + 1, as seq_start: ranges of `blocks` */
    const uint32_t *blocks;      /* block ids in position order, covering every position used, perhaps
                                    more. Two sequences may read one block; one that is written in
                                    this step belongs to a single sequence of it */
    const uint32_t *rows;        /* n_rows indices into tokens whose logits are kept; a token may
                                    appear more than once (a request that forks after its prompt) */
    uint32_t n_seqs, n_rows;     /* at least one sequence; perhaps no row */
    const uint32_t *copies;      /* n_copies pairs (from, to), from != to: whole blocks, copied before
                                    the step runs, in order (forks) */
    uint32_t n_copies, reserved;
} tm_batch;

/* How one row is sampled. In this order, on f32 logits:
 *   add biases; set tokens outside the mask to -inf;
 *   repetition (arXiv 1909.05858): for every seen token, l = l > 0 ? l / r : l * r;
 *   frequency and presence (OpenAI): l -= frequency * count + (count > 0 ? presence : 0);
 *   temperature 0: the largest, the lower id on a tie. Otherwise l /= temperature;
 *   top_k: keep the k largest and every tie of the k-th;
 *   top_p (arXiv 1904.09751): of the softmax over what is kept, the smallest set of the most probable
 *   tokens whose sum reaches p, at least one;
 *   min_p (arXiv 2407.01082): keep p >= min_p * largest p;
 *   draw: u = (splitmix64(seed) >> 40) / 2^24; the first token, in id order over what is kept, whose
 *   cumulative probability exceeds u. splitmix64 is one step of Vigna's generator from state `seed`.
 * A number outside its range is TM_INVALID: temperature finite and >= 0, top_p >= 0, min_p 0..1,
 * repetition > 0, presence and frequency finite, token ids below vocab. */
typedef struct {
    uint64_t seed;       /* of this row in this step */
    float temperature;   /* 0 = greedy */
    float top_p;         /* 1 = off */
    float min_p;         /* 0 = off */
    float repetition;    /* 1 = off */
    float presence;      /* 0 = off */
    float frequency;     /* 0 = off */
    uint32_t top_k;      /* 0 = off */
    int32_t forced;      /* -1 = sample; else this token is the result, whatever the logits say
                            (its log-probability is reported: prompt scoring) */
    uint32_t bias, n_bias; /* range of tm_sampling.bias_token / bias_value */
    uint32_t seen, n_seen; /* range of tm_sampling.seen_token / seen_count */
    uint32_t mask;         /* 1 + index into tm_sampling.masks; 0 = all tokens allowed */
    uint32_t reserved;
} tm_row;

typedef struct {
    size_t size;
    const tm_row *rows;          /* one per row of the batch */
    const uint32_t *bias_token;
    const float *bias_value;
    uint32_t n_bias;             /* length of both */
    uint32_t n_seen;             /* length of both */
    const uint32_t *seen_token;  /* what penalties apply to */
    const uint32_t *seen_count;  /* times generated; 0 = only in the prompt (repetition alone) */
    const uint32_t *masks;       /* n_masks x ceil(vocab / 32) words; bit t%32 of word t/32 allows t */
    uint32_t n_masks, reserved;
} tm_sampling;

typedef struct {
    size_t size;
    int32_t *tokens;   /* capacity entries; -1: the row had NaN, or no finite logit (after biases and
                          mask) and no forced token */
    float *logprobs;   /* capacity entries: log-softmax of the raw logits at the token; NaN at -1 */
    uint32_t capacity; /* in */
    uint32_t n_rows;   /* out: rows written; 0 if the step was not sampled. A capacity below the rows
                          of a sampled step is TM_INVALID */
} tm_result;

typedef struct {
    size_t size;
    uint32_t major, minor;
    const char *name;
    /* [T] 1 = can run here; 0 = no device or driver, message says which. */
    int32_t (*probe)(tm_message *);
    /* [T] May block for long. */
    tm_code (*load)(const tm_load *, tm_model **, tm_message *);
    /* [M] Waits for queued work, frees everything. NULL is allowed. */
    void (*unload)(tm_model *);
    /* [T] */
    tm_code (*info)(const tm_model *, tm_info *, tm_message *);
    /* [M] Queues the forward pass. References to rows (-1-r) need the previous ticket to be sampled
     * (sample called) before this call; it may be running still, or be released. A row that sampled -1
     * counts as some token id: the host drops what follows from it. */
    tm_code (*submit)(tm_model *, const tm_batch *, tm_ticket *, tm_message *);
    /* [M] Queues sampling of the newest ticket; at most once per ticket. */
    tm_code (*sample)(tm_model *, tm_ticket, const tm_sampling *, tm_message *);
    /* [T] Until the ticket's queued work is done, or `ns` nanoseconds passed (UINT64_MAX: for ever).
     * Results of a ticket stay readable until release. A step that failed on the device reports it here,
     * as often as it is asked, and so do topk and logits; what it wrote to its blocks is undefined. */
    tm_code (*wait)(tm_model *, tm_ticket, uint64_t ns, tm_result *, tm_message *);
    /* [T] The k largest log-probabilities of the raw logits, falling, lower id first on a tie. Waits
     * for the forward pass. k <= vocab. */
    tm_code (*topk)(tm_model *, tm_ticket, uint32_t row, uint32_t k, uint32_t *ids, float *logprobs,
                    tm_message *);
    /* [T] The raw logits of a row, vocab floats, readable until release. Waits for the forward pass. */
    tm_code (*logits)(tm_model *, tm_ticket, uint32_t row, const float **, tm_message *);
    /* [M] Ends a ticket; it may still be running. Unknown tickets are ignored. */
    void (*release)(tm_model *, tm_ticket);
    /* [T] A versioned extra ("kv-swap/1"), or NULL. */
    const void *(*extension)(const char *id);
} tm_api;

/* [T] The table lives as long as the process. */
#if defined(_WIN32)
__declspec(dllexport)
#else
__attribute__((visibility("default")))
#endif
const tm_api *tm_backend(uint32_t major);

#ifdef __cplusplus
}
#endif
#endif
