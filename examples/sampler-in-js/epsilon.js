// Epsilon sampling: draws among the tokens that are at least as likely as `epsilon`.
//
// Source: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing" (arXiv 2210.15191), section 4.
// The argument `policy.args.epsilon` of a request comes before the operator's configuration, which is one
// number too; 0.02 else. The same policy in C is ../sampler-in-c/epsilon.c.

const LEAST_EPSILON = 1 / 1024;
const RANGE = "must be a number from 1/1024 to 1";

let defaultEpsilon = 0.02;

/** A number within the limits, or NaN. */
function parse(text) {
  const value = /^[0-9]*\.?[0-9]+$/.test(text) ? Number(text) : NaN;
  return value >= LEAST_EPSILON && value <= 1 ? value : NaN;
}

/** What a row's request asks for; NaN if that is no epsilon. */
function epsilonOf(view, row) {
  const text = view.attribute(row, "epsilon");
  return text == null ? defaultEpsilon : parse(text);
}

/** One of the likely enough tokens, most likely first; `seed` says which. */
function draw([tokens, logprobs], epsilon, seed) {
  const likely = logprobs.map(Math.exp).filter((probability, i) => i === 0 || probability >= epsilon);
  let left = (Number(seed) / 2 ** 64) * likely.reduce((sum, probability) => sum + probability, 0);
  for (let i = 0; i + 1 < likely.length; i++) {
    left -= likely[i];
    if (left < 0) return tokens[i];
  }
  return tokens[likely.length - 1];
}

export const sampler = {
  configure(config) {
    const epsilon = config === "" ? defaultEpsilon : parse(config);
    if (Number.isNaN(epsilon)) throw { tag: "bad-config", val: RANGE };
    defaultEpsilon = epsilon;
  },

  plan(view, knobs) {
    const rows = [];
    view.ids().forEach((_, row) => {
      if (Number.isNaN(epsilonOf(view, row))) knobs.refuse(row, `policy.args.epsilon ${RANGE}`);
      else rows.push(row);
    });
    knobs.inspect(rows);
  },

  pick(view, logits, rows, choices) {
    const seeds = view.seeds();
    const tokens = rows.map((row) => {
      const epsilon = epsilonOf(view, row);
      return draw(logits.topK(row, Math.ceil(1 / epsilon)), epsilon, seeds[row]);
    });
    choices.accept(rows, tokens);
  },
};
