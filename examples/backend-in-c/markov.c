/* A complete Tokenmill backend in C99: a language model of bytes that fits in one file.
 *
 * The next byte follows from the last two (an order-2 Markov chain over a short text) and from all bytes of
 * the sequence so far (a cache model, arXiv 1612.04426, here without a temperature). The chain stands in for
 * weights, the cache for attention: like a transformer, the model sees earlier tokens only through the KV
 * blocks of the batch. There a block stores token ids, one of 16 bits per position.
 *
 * Everything is computed in submit and sample, so there is nothing to wait for; one lock makes wait, topk and
 * logits safe beside them. The header says what each function must do; the comments here say how. */
#include "tokenmill.h"

#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

TM_MANIFEST("abi=1.0\nname=markov\nversion=0.1.0\ndescription=a byte model in one C file\n");

/* Tokens are bytes, and one for the end of a text. */
enum { END = 256, VOCAB = 257, MASK_WORDS = (VOCAB + 31) / 32, CONTEXT = 8192, MAX_DEPTH = 4 };

/* What the chain has read. NUL ends a text. */
static const char TEXT[] =
    "The mill turns when the river is high. The miller brings the grain, and the stone turns it into flour.\n\0"
    "When the river is low, the mill waits. The miller sits by the door and counts the sacks of grain.\n\0"
    "A sack of grain is a sack of work, says the miller, and a sack of flour is a sack of bread.\n\0"
    "The stone is old, but the stone is good. It turns in the morning, and it turns in the evening.\n\0"
    "In the winter the river is ice, and the stone is still, and the miller reads by the fire.\n";

typedef struct {
    tm_ticket ticket; /* 0 = free */
    uint32_t n_rows;
    int sampled;
    float *logits;   /* max_rows x VOCAB */
    int32_t *tokens; /* max_rows, as the next */
    float *logprobs;
} step;

struct tm_model {
    pthread_mutex_t lock;
    uint32_t block_tokens, n_blocks, max_tokens, max_rows, max_seqs, depth;
    uint16_t *kv;      /* n_blocks x block_tokens token ids */
    uint64_t *claimed; /* n_blocks: the last check that found the block to be written */
    uint64_t checks;
    tm_ticket newest;
    int32_t *previous; /* what the newest ticket sampled; outlives its release */
    uint32_t n_previous;
    step steps[MAX_DEPTH];
};

/* ---- errors and structs ---- */

static tm_code fail(tm_message *message, tm_code code, const char *format, ...) {
    if (message) {
        va_list arguments;
        va_start(arguments, format);
        vsnprintf(message->text, sizeof message->text, format, arguments);
        va_end(arguments);
    }
    return code;
}

/* The caller's struct may be shorter (an older host: the rest is zero) or longer (a newer one). */
static void read_struct(void *to, size_t size, const void *from) {
    size_t given = *(const size_t *)from;
    memset(to, 0, size);
    memcpy(to, from, given < size ? given : size);
}

/* ---- the model ---- */

static uint16_t *slot(tm_model *model, const uint32_t *blocks, uint32_t position) {
    size_t block = blocks[position / model->block_tokens];
    return &model->kv[block * model->block_tokens + position % model->block_tokens];
}

static int text_token(size_t i) {
    return TEXT[i] ? (unsigned char)TEXT[i] : END;
}

/* Logits (natural logarithms of probabilities) of what follows `position`. */
static void predict(tm_model *model, const uint32_t *blocks, uint32_t position, float *logits) {
    double chain[VOCAB], sum = 0, cache[VOCAB] = {0};
    int last = *slot(model, blocks, position);
    int before = position > 0 ? *slot(model, blocks, position - 1) : END;
    uint32_t p;
    size_t i;
    int t;
    for (t = 0; t < VOCAB; t++) chain[t] = 0.001;
    for (i = 0; i < sizeof TEXT; i++) {
        int after_last = i > 0 && text_token(i - 1) == last;
        int after_both = after_last && i > 1 && text_token(i - 2) == before;
        chain[text_token(i)] += 0.01 + after_last + 20 * after_both;
    }
    for (p = 0; p <= position; p++) cache[*slot(model, blocks, p)] += 1;
    for (t = 0; t < VOCAB; t++) sum += chain[t];
    for (t = 0; t < VOCAB; t++) logits[t] = (float)log(0.95 * chain[t] / sum + 0.05 * cache[t] / (position + 1.0));
}

static float logprob(const float *logits, int32_t token) {
    double largest = logits[0], sum = 0;
    int t;
    for (t = 1; t < VOCAB; t++) largest = logits[t] > largest ? logits[t] : largest;
    for (t = 0; t < VOCAB; t++) sum += exp(logits[t] - largest);
    return (float)(logits[token] - largest - log(sum));
}

/* Token ids by falling logit, the lower id first on a tie (insertion sort). */
static void sort(const float *logits, uint32_t *ids) {
    uint32_t t, i;
    for (t = 0; t < VOCAB; t++) {
        for (i = t; i > 0 && logits[ids[i - 1]] < logits[t]; i--) ids[i] = ids[i - 1];
        ids[i] = t;
    }
}

/* ---- sampling: tm_row in the header, line by line ---- */

static double uniform(uint64_t seed) {
    uint64_t z = seed + 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return (double)((z ^ (z >> 31)) >> 40) / 16777216.0;
}

static void adjust(float *logits, const tm_row *row, const tm_sampling *all) {
    uint32_t i, t;
    for (i = row->bias; i < row->bias + row->n_bias; i++) logits[all->bias_token[i]] += all->bias_value[i];
    if (row->mask > 0) {
        const uint32_t *mask = all->masks + (size_t)(row->mask - 1) * MASK_WORDS;
        for (t = 0; t < VOCAB; t++) {
            if (!(mask[t / 32] >> (t % 32) & 1)) logits[t] = -INFINITY;
        }
    }
    for (i = row->seen; i < row->seen + row->n_seen; i++) {
        float *logit = &logits[all->seen_token[i]];
        uint32_t count = all->seen_count[i];
        *logit = *logit > 0 ? *logit / row->repetition : *logit * row->repetition;
        *logit -= row->frequency * (float)count + (count > 0 ? row->presence : 0);
    }
}

static int32_t draw(const float *logits, const uint32_t *ids, const tm_row *row) {
    double weights[VOCAB] = {0}, by_id[VOCAB] = {0}, sum = 0, target, kept = 0;
    uint32_t n = 0, i, t;
    while (n < VOCAB && logits[ids[n]] > -INFINITY) n++;
    if (row->top_k > 0 && row->top_k < n) {
        float kth = logits[ids[row->top_k - 1]];
        while (logits[ids[n - 1]] < kth) n--;
    }
    for (i = 0; i < n; i++) {
        weights[i] = exp(((double)logits[ids[i]] - logits[ids[0]]) / row->temperature);
        sum += weights[i];
    }
    if (row->top_p < 1) {
        target = row->top_p * sum;
        for (sum = weights[0], i = 1; i < n && sum < target; i++) sum += weights[i];
        n = i;
    }
    while (weights[n - 1] < row->min_p) n--;
    for (i = 0; i < n; i++) by_id[ids[i]] = weights[i], kept += weights[i];
    target = uniform(row->seed) * kept;
    for (sum = 0, t = 0; t < VOCAB; t++) {
        sum += by_id[t];
        if (by_id[t] > 0 && sum > target) return (int32_t)t;
    }
    return (int32_t)ids[n - 1]; /* rounding at the very end */
}

static int32_t pick(const float *raw, const tm_row *row, const tm_sampling *all) {
    float logits[VOCAB];
    uint32_t ids[VOCAB];
    if (row->forced >= 0) return row->forced;
    memcpy(logits, raw, sizeof logits);
    adjust(logits, row, all);
    sort(logits, ids);
    if (!(logits[ids[0]] > -INFINITY)) return -1;
    return row->temperature == 0 ? (int32_t)ids[0] : draw(logits, ids, row);
}

/* ---- what a caller may get wrong ---- */

static tm_code check_column(const char *name, const uint32_t *values, uint32_t n, uint32_t limit, tm_message *message) {
    uint32_t i;
    for (i = 0; i < n; i++) {
        if (values[i] >= limit) {
            return fail(message, TM_INVALID, "%s[%u] = %u, the limit is %u", name, i, values[i], limit);
        }
    }
    return TM_OK;
}

static tm_code check_starts(const char *name, const uint32_t *starts, uint32_t n_seqs, tm_message *message) {
    uint32_t i;
    if (starts[0] != 0) return fail(message, TM_INVALID, "%s[0] = %u, expected 0", name, starts[0]);
    for (i = 0; i < n_seqs; i++) {
        if (starts[i] >= starts[i + 1]) {
            return fail(message, TM_INVALID, "%s[%u] = %u does not rise", name, i + 1, starts[i + 1]);
        }
    }
    return TM_OK;
}

static tm_code check_sequence(tm_model *model, const tm_batch *batch, uint32_t i, tm_message *message) {
    uint32_t n_tokens = batch->seq_start[i + 1] - batch->seq_start[i];
    uint32_t n_blocks = batch->block_start[i + 1] - batch->block_start[i];
    uint64_t end = (uint64_t)batch->seq_pos[i] + n_tokens, b;
    if (end > CONTEXT) return fail(message, TM_INVALID, "seq_pos[%u] = %u is too far", i, batch->seq_pos[i]);
    if ((uint64_t)n_blocks * model->block_tokens < end) {
        return fail(message, TM_INVALID, "block_start[%u]: too few blocks for %u positions", i, (uint32_t)end);
    }
    for (b = batch->seq_pos[i] / model->block_tokens; b * model->block_tokens < end; b++) {
        uint32_t at = batch->block_start[i] + (uint32_t)b, block = batch->blocks[at];
        if (model->claimed[block] == model->checks) {
            return fail(message, TM_INVALID, "blocks[%u] = %u is written by two sequences", at, block);
        }
        model->claimed[block] = model->checks;
    }
    return TM_OK;
}

static tm_code check_batch(tm_model *model, const tm_batch *batch, tm_message *message) {
    uint32_t n_seqs = batch->n_seqs, n_tokens, i;
    tm_code code;
    if (n_seqs == 0 || n_seqs > model->max_seqs) return fail(message, TM_INVALID, "n_seqs = %u", n_seqs);
    if (batch->n_rows > model->max_rows) return fail(message, TM_INVALID, "rows: %u are too many", batch->n_rows);
    if ((code = check_starts("seq_start", batch->seq_start, n_seqs, message))) return code;
    if ((code = check_starts("block_start", batch->block_start, n_seqs, message))) return code;
    n_tokens = batch->seq_start[n_seqs];
    if (n_tokens > model->max_tokens) return fail(message, TM_INVALID, "tokens: %u are too many", n_tokens);
    i = batch->block_start[n_seqs];
    if ((code = check_column("blocks", batch->blocks, i, model->n_blocks, message))) return code;
    if ((code = check_column("rows", batch->rows, batch->n_rows, n_tokens, message))) return code;
    for (i = 0; i < batch->n_copies; i++) {
        uint32_t from = batch->copies[2 * i], to = batch->copies[2 * i + 1];
        if (from >= model->n_blocks || to >= model->n_blocks || from == to) {
            return fail(message, TM_INVALID, "copies[%u] = (%u, %u)", i, from, to);
        }
    }
    for (i = 0; i < n_tokens; i++) {
        int64_t token = batch->tokens[i];
        if (token >= VOCAB || -1 - token >= (int64_t)model->n_previous) {
            return fail(message, TM_INVALID, "tokens[%u] = %d is no token and no row", i, batch->tokens[i]);
        }
    }
    model->checks++;
    for (i = 0; i < n_seqs; i++) {
        if ((code = check_sequence(model, batch, i, message))) return code;
    }
    return TM_OK;
}

static tm_code check_sampling(const tm_sampling *all, uint32_t n_rows, tm_message *message) {
    uint32_t i;
    tm_code code;
    if ((code = check_column("bias_token", all->bias_token, all->n_bias, VOCAB, message))) return code;
    if ((code = check_column("seen_token", all->seen_token, all->n_seen, VOCAB, message))) return code;
    for (i = 0; i < n_rows; i++) {
        const tm_row *row = &all->rows[i];
        const char *wrong = NULL;
        if ((uint64_t)row->bias + row->n_bias > all->n_bias) wrong = "bias";
        if ((uint64_t)row->seen + row->n_seen > all->n_seen) wrong = "seen";
        if (row->mask > all->n_masks) wrong = "mask";
        if (row->forced < -1 || row->forced >= VOCAB) wrong = "forced";
        if (!(row->temperature >= 0) || isinf(row->temperature)) wrong = "temperature";
        if (!(row->top_p >= 0)) wrong = "top_p";
        if (!(row->min_p >= 0 && row->min_p <= 1)) wrong = "min_p";
        if (!(row->repetition > 0) || isinf(row->repetition)) wrong = "repetition";
        if (!isfinite(row->presence)) wrong = "presence";
        if (!isfinite(row->frequency)) wrong = "frequency";
        if (wrong) return fail(message, TM_INVALID, "rows[%u].%s is out of range", i, wrong);
    }
    return TM_OK;
}

/* ---- the functions of the table ---- */

static int32_t probe(tm_message *message) {
    (void)message;
    return 1;
}

static void unload(tm_model *model) {
    int i;
    if (!model) return;
    for (i = 0; i < MAX_DEPTH; i++) {
        free(model->steps[i].logits);
        free(model->steps[i].tokens);
        free(model->steps[i].logprobs);
    }
    free(model->kv);
    free(model->claimed);
    free(model->previous);
    pthread_mutex_destroy(&model->lock);
    free(model);
}

static tm_code check_load(const tm_load *load, tm_message *message) {
    const char *wrong = NULL;
    uint32_t size = load->block_tokens;
    if (load->n_devices == 0) wrong = "n_devices";
    if (load->tensor_parallel == 0 || load->n_devices % load->tensor_parallel) wrong = "tensor_parallel";
    if (size == 0 || size > 256 || (size & (size - 1))) wrong = "block_tokens";
    if (load->max_tokens == 0) wrong = "max_tokens";
    if (load->max_rows == 0) wrong = "max_rows";
    if (load->max_seqs == 0) wrong = "max_seqs";
    if (load->depth == 0 || load->depth > MAX_DEPTH) wrong = "depth";
    if (load->n_devices == 0) wrong = "n_devices";
    if (wrong) return fail(message, TM_INVALID, "%s is out of range", wrong);
    if (load->options && load->options[strspn(load->options, " \n")]) {
        return fail(message, TM_INVALID, "unknown option in \"%.200s\"", load->options);
    }
    return TM_OK;
}

static tm_code load(const tm_load *from, tm_model **out, tm_message *message) {
    tm_load load;
    tm_model *model;
    tm_code code;
    uint64_t n_blocks, i, row_bytes;
    int complete;
    read_struct(&load, sizeof load, from);
    if ((code = check_load(&load, message))) return code;
    n_blocks = load.kv_bytes ? load.kv_bytes / (load.block_tokens * sizeof(uint16_t)) : 4096;
    if (n_blocks == 0) return fail(message, TM_NO_MEMORY, "kv_bytes holds no block");
    if (n_blocks > 1 << 20) n_blocks = 1 << 20;
    if (!(model = calloc(1, sizeof *model))) return fail(message, TM_NO_MEMORY, "no memory");
    pthread_mutex_init(&model->lock, NULL);
    model->block_tokens = load.block_tokens;
    model->n_blocks = (uint32_t)n_blocks;
    model->max_tokens = load.max_tokens;
    model->max_rows = load.max_rows;
    model->max_seqs = load.max_seqs;
    model->depth = load.depth;
    model->kv = calloc(n_blocks * load.block_tokens, sizeof *model->kv);
    model->claimed = calloc(n_blocks, sizeof *model->claimed);
    model->previous = calloc(load.max_rows, sizeof *model->previous);
    complete = model->kv && model->claimed && model->previous;
    row_bytes = VOCAB * sizeof(float);
    for (i = 0; i < load.depth; i++) {
        step *step = &model->steps[i];
        step->logits = calloc(load.max_rows, row_bytes);
        step->tokens = calloc(load.max_rows, sizeof *step->tokens);
        step->logprobs = calloc(load.max_rows, sizeof *step->logprobs);
        complete = complete && step->logits && step->tokens && step->logprobs;
    }
    if (!complete) {
        unload(model);
        return fail(message, TM_NO_MEMORY, "no memory for %u blocks and %u rows", (uint32_t)n_blocks, load.max_rows);
    }
    if (load.progress) load.progress(load.user, sizeof TEXT, sizeof TEXT);
    *out = model;
    return TM_OK;
}

static tm_code info(const tm_model *model, tm_info *out, tm_message *message) {
    tm_info info;
    (void)message;
    memset(&info, 0, sizeof info);
    info.size = out->size;
    info.vocab = VOCAB;
    info.max_context = CONTEXT;
    info.n_blocks = model->n_blocks;
    info.block_tokens = model->block_tokens;
    info.max_tokens = model->max_tokens;
    info.max_rows = model->max_rows;
    info.max_seqs = model->max_seqs;
    info.depth = model->depth;
    info.weight_bytes = sizeof TEXT;
    info.kv_block_bytes = model->block_tokens * sizeof *model->kv;
    strcpy(info.arch, "markov");
    strcpy(info.device, "CPU");
    strcpy(info.weights, "text");
    memcpy(out, &info, out->size < sizeof info ? out->size : sizeof info);
    return TM_OK;
}

/* The step of a ticket; ticket 0 gives a free place. */
static step *find(tm_model *model, tm_ticket ticket) {
    uint32_t i;
    for (i = 0; i < model->depth; i++) {
        if (model->steps[i].ticket == ticket) return &model->steps[i];
    }
    return NULL;
}

static void compute(tm_model *model, const tm_batch *batch, step *step) {
    size_t block_bytes = model->block_tokens * sizeof *model->kv;
    uint32_t i, s, t;
    for (i = 0; i < batch->n_copies; i++) {
        memcpy(model->kv + (size_t)batch->copies[2 * i + 1] * model->block_tokens,
               model->kv + (size_t)batch->copies[2 * i] * model->block_tokens, block_bytes);
    }
    for (s = 0; s < batch->n_seqs; s++) {
        const uint32_t *blocks = batch->blocks + batch->block_start[s];
        for (t = batch->seq_start[s]; t < batch->seq_start[s + 1]; t++) {
            int32_t token = batch->tokens[t];
            if (token < 0) token = model->previous[-1 - token];
            if (token < 0) token = 0; /* a row without a result */
            *slot(model, blocks, batch->seq_pos[s] + t - batch->seq_start[s]) = (uint16_t)token;
        }
    }
    for (i = 0; i < batch->n_rows; i++) {
        for (s = 0; batch->seq_start[s + 1] <= batch->rows[i]; s++) continue;
        predict(model, batch->blocks + batch->block_start[s], batch->seq_pos[s] + batch->rows[i] - batch->seq_start[s],
                step->logits + (size_t)i * VOCAB);
    }
}

static tm_code submit(tm_model *model, const tm_batch *from, tm_ticket *ticket, tm_message *message) {
    tm_batch batch;
    tm_code code;
    step *step;
    read_struct(&batch, sizeof batch, from);
    pthread_mutex_lock(&model->lock);
    code = check_batch(model, &batch, message);
    step = find(model, 0);
    if (!code && !step) code = fail(message, TM_AGAIN, "%u tickets are alive", model->depth);
    if (!code) {
        compute(model, &batch, step);
        *ticket = step->ticket = ++model->newest;
        step->n_rows = batch.n_rows;
        step->sampled = 0;
        model->n_previous = 0;
    }
    pthread_mutex_unlock(&model->lock);
    return code;
}

static tm_code sample(tm_model *model, tm_ticket ticket, const tm_sampling *from, tm_message *message) {
    tm_sampling all;
    tm_code code;
    step *step;
    uint32_t i;
    read_struct(&all, sizeof all, from);
    pthread_mutex_lock(&model->lock);
    step = ticket && ticket == model->newest ? find(model, ticket) : NULL;
    if (!step || step->sampled) {
        code = fail(message, TM_INVALID, "ticket %llu is not the newest, or sampled", (unsigned long long)ticket);
    } else if (!(code = check_sampling(&all, step->n_rows, message))) {
        for (i = 0; i < step->n_rows; i++) {
            const float *logits = step->logits + (size_t)i * VOCAB;
            int32_t token = pick(logits, &all.rows[i], &all);
            model->previous[i] = step->tokens[i] = token;
            step->logprobs[i] = token < 0 ? NAN : logprob(logits, token);
        }
        model->n_previous = step->n_rows;
        step->sampled = 1;
    }
    pthread_mutex_unlock(&model->lock);
    return code;
}

static tm_code wait(tm_model *model, tm_ticket ticket, uint64_t ns, tm_result *result, tm_message *message) {
    tm_code code = TM_OK;
    step *step;
    (void)ns;
    pthread_mutex_lock(&model->lock);
    step = ticket ? find(model, ticket) : NULL;
    if (!step) {
        code = fail(message, TM_INVALID, "ticket %llu is not alive", (unsigned long long)ticket);
    } else if (step->sampled && result->capacity < step->n_rows) {
        code = fail(message, TM_INVALID, "capacity = %u, the step has %u rows", result->capacity, step->n_rows);
    } else {
        result->n_rows = step->sampled ? step->n_rows : 0;
        if (result->n_rows > 0) {
            memcpy(result->tokens, step->tokens, step->n_rows * sizeof *step->tokens);
            memcpy(result->logprobs, step->logprobs, step->n_rows * sizeof *step->logprobs);
        }
    }
    pthread_mutex_unlock(&model->lock);
    return code;
}

static tm_code logits(tm_model *model, tm_ticket ticket, uint32_t row, const float **out, tm_message *message) {
    tm_code code = TM_OK;
    step *step;
    pthread_mutex_lock(&model->lock);
    step = ticket ? find(model, ticket) : NULL;
    if (!step) {
        code = fail(message, TM_INVALID, "ticket %llu is not alive", (unsigned long long)ticket);
    } else if (row >= step->n_rows) {
        code = fail(message, TM_INVALID, "row = %u, the step has %u", row, step->n_rows);
    } else {
        *out = step->logits + (size_t)row * VOCAB;
    }
    pthread_mutex_unlock(&model->lock);
    return code;
}

static tm_code topk(tm_model *model, tm_ticket ticket, uint32_t row, uint32_t k, uint32_t *ids, float *logprobs,
                    tm_message *message) {
    const float *raw;
    uint32_t sorted[VOCAB], i;
    tm_code code = logits(model, ticket, row, &raw, message);
    if (code) return code;
    if (k > VOCAB) return fail(message, TM_INVALID, "k = %u, the vocabulary has %d", k, VOCAB);
    sort(raw, sorted);
    for (i = 0; i < k; i++) {
        ids[i] = sorted[i];
        logprobs[i] = logprob(raw, (int32_t)sorted[i]);
    }
    return TM_OK;
}

static void release(tm_model *model, tm_ticket ticket) {
    step *step;
    pthread_mutex_lock(&model->lock);
    step = ticket ? find(model, ticket) : NULL;
    if (step) step->ticket = 0;
    pthread_mutex_unlock(&model->lock);
}

static const void *extension(const char *id) {
    (void)id;
    return NULL;
}

static const tm_api API = {sizeof(tm_api), TM_MAJOR, TM_MINOR, "markov", probe, load, unload,  info,
                           submit,         sample,   wait,     topk,     logits, release, extension};

const tm_api *tm_backend(uint32_t major) {
    return major == TM_MAJOR ? &API : NULL;
}
