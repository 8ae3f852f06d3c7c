/* Epsilon sampling: draws among the tokens that are at least as likely as `epsilon`.
 *
 * Source: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing" (arXiv 2210.15191), section 4.
 * The argument `policy.args.epsilon` of a request comes before the operator's configuration, which is one
 * number too; 0.02 else. At most 1 / epsilon tokens are that likely, so that many are asked for.
 *
 * Whatever a function here receives is its to free: lists of the host, its own arguments, and the borrowed
 * handles, which have to be dropped before it returns. */
#include "sampling.h"

#include <math.h>
#include <stdlib.h>

#define LEAST_EPSILON (1.0 / 1024)

static double default_epsilon = 0.02;

/* A decimal number within the limits, or 0. Not strtod: it comes with stdio, and so with imports of WASI. */
static double parse(const sampling_string_t *text) {
    double value = 0, unit = 1;
    bool fraction = false, digits = false;
    for (size_t i = 0; i < text->len; i++) {
        uint8_t c = text->ptr[i];
        if (c == '.' && !fraction) {
            fraction = true;
        } else if (c >= '0' && c <= '9') {
            digits = true;
            value = value * 10 + (c - '0');
            unit *= fraction ? 10 : 1;
        } else {
            return 0;
        }
    }
    value /= unit;
    return digits && value >= LEAST_EPSILON && value <= 1 ? value : 0;
}

/* What a row's request asks for; 0 if that is no epsilon. */
static double epsilon_of(tokenmill_policy_sample_host_borrow_view_t view, uint32_t row) {
    sampling_string_t key, text;
    sampling_string_set(&key, "epsilon");
    if (!tokenmill_policy_sample_host_method_view_attribute(view, row, &key, &text))
        return default_epsilon;
    double epsilon = parse(&text);
    sampling_string_free(&text);
    return epsilon;
}

bool exports_tokenmill_policy_sampler_configure(sampling_string_t *config,
                                                exports_tokenmill_policy_sampler_error_t *error) {
    double epsilon = config->len ? parse(config) : default_epsilon;
    sampling_string_free(config);
    if (epsilon == 0) {
        error->tag = TOKENMILL_POLICY_TYPES_ERROR_BAD_CONFIG;
        sampling_string_dup(&error->val.bad_config, "must be a number from 1/1024 to 1");
        return false;
    }
    default_epsilon = epsilon;
    return true;
}

bool exports_tokenmill_policy_sampler_plan(tokenmill_policy_sample_host_borrow_view_t view,
                                           tokenmill_policy_sample_host_borrow_knobs_t knobs,
                                           exports_tokenmill_policy_sampler_error_t *error) {
    (void)error;
    sampling_list_u64_t ids;
    tokenmill_policy_sample_host_method_view_ids(view, &ids);
    sampling_list_u32_t rows = {malloc(ids.len * sizeof(uint32_t)), 0};
    for (uint32_t row = 0; row < ids.len; row++) {
        if (epsilon_of(view, row) > 0) {
            rows.ptr[rows.len++] = row;
            continue;
        }
        sampling_string_t why;
        sampling_string_set(&why, "policy.args.epsilon must be a number from 1/1024 to 1");
        tokenmill_policy_sample_host_method_knobs_refuse(knobs, row, &why);
    }
    tokenmill_policy_sample_host_method_knobs_inspect(knobs, &rows);
    free(rows.ptr);
    sampling_list_u64_free(&ids);
    tokenmill_policy_sample_host_view_drop_borrow(view);
    tokenmill_policy_sample_host_knobs_drop_borrow(knobs);
    return true;
}

/* One of the likely enough tokens of `top`, most likely first; `seed` says which. */
static uint32_t draw(const sampling_tuple2_list_u32_list_f32_t *top, double epsilon, uint64_t seed) {
    size_t kept = 1;
    double sum = exp(top->f1.ptr[0]);
    while (kept < top->f1.len && exp(top->f1.ptr[kept]) >= epsilon)
        sum += exp(top->f1.ptr[kept++]);
    double left = (double)(seed >> 11) / 9007199254740992.0 * sum; /* 53 bits, below 1 */
    for (size_t i = 0; i + 1 < kept; i++) {
        left -= exp(top->f1.ptr[i]);
        if (left < 0)
            return top->f0.ptr[i];
    }
    return top->f0.ptr[kept - 1];
}

bool exports_tokenmill_policy_sampler_pick(tokenmill_policy_sample_host_borrow_view_t view,
                                           tokenmill_policy_sample_host_borrow_logits_t logits,
                                           sampling_list_u32_t *rows,
                                           tokenmill_policy_sample_host_borrow_choices_t choices,
                                           exports_tokenmill_policy_sampler_error_t *error) {
    (void)error;
    sampling_list_u64_t seeds;
    tokenmill_policy_sample_host_method_view_seeds(view, &seeds);
    sampling_list_u32_t tokens = {malloc(rows->len * sizeof(uint32_t)), rows->len};
    for (size_t i = 0; i < rows->len; i++) {
        uint32_t row = rows->ptr[i];
        double epsilon = epsilon_of(view, row);
        sampling_tuple2_list_u32_list_f32_t top;
        tokenmill_policy_sample_host_method_logits_top_k(logits, row, (uint32_t)ceil(1 / epsilon), &top);
        tokens.ptr[i] = draw(&top, epsilon, seeds.ptr[row]);
        sampling_tuple2_list_u32_list_f32_free(&top);
    }
    tokenmill_policy_sample_host_method_choices_accept(choices, rows, &tokens);
    free(tokens.ptr);
    sampling_list_u32_free(rows);
    sampling_list_u64_free(&seeds);
    tokenmill_policy_sample_host_view_drop_borrow(view);
    tokenmill_policy_sample_host_logits_drop_borrow(logits);
    tokenmill_policy_sample_host_choices_drop_borrow(choices);
    return true;
}
