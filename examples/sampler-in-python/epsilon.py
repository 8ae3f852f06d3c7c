"""Epsilon sampling: draws among the tokens that are at least as likely as `epsilon`.

Source: Hewitt et al. 2022, "Truncation Sampling as Language Model Desmoothing" (arXiv 2210.15191), section 4.
The argument `policy.args.epsilon` of a request comes before the operator's configuration, which is one
number too; 0.02 else. The same policy in C is ../sampler-in-c/epsilon.c.
"""

from math import ceil, exp

from componentize_py_types import Err
from wit_world import exports
from wit_world.imports.types import Error_BadConfig

LEAST_EPSILON = 1 / 1024
RANGE = "must be a number from 1/1024 to 1"

default_epsilon = 0.02


def parse(text):
    """A number within the limits, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if LEAST_EPSILON <= value <= 1 else None


def epsilon_of(view, row):
    """What a row's request asks for; None if that is no epsilon."""
    text = view.attribute(row, "epsilon")
    return default_epsilon if text is None else parse(text)


def draw(tokens, logprobs, epsilon, seed):
    """One of the likely enough tokens, most likely first; `seed` says which."""
    likely = [exp(logprob) for logprob in logprobs]
    likely = likely[:1] + [probability for probability in likely[1:] if probability >= epsilon]
    left = (seed >> 11) / 2**53 * sum(likely)
    for token, probability in zip(tokens, likely[:-1]):
        left -= probability
        if left < 0:
            return token
    return tokens[len(likely) - 1]


class Sampler(exports.Sampler):
    def configure(self, config):
        global default_epsilon
        epsilon = parse(config) if config else default_epsilon
        if epsilon is None:
            raise Err(Error_BadConfig(RANGE))
        default_epsilon = epsilon

    def plan(self, v, out):
        epsilons = [epsilon_of(v, row) for row in range(len(v.ids()))]
        for row, epsilon in enumerate(epsilons):
            if epsilon is None:
                out.refuse(row, f"policy.args.epsilon {RANGE}")
        out.inspect([row for row, epsilon in enumerate(epsilons) if epsilon is not None])

    def pick(self, v, l, rows, out):
        seeds, tokens = v.seeds(), []
        for row in rows:
            epsilon = epsilon_of(v, row)
            top, logprobs = l.top_k(row, ceil(1 / epsilon))
            tokens.append(draw(top, logprobs, epsilon, seeds[row]))
        out.accept(rows, tokens)
