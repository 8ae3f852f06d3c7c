#!/usr/bin/env python3
"""A model directory of an exact geometry with random weights: make_model.py GEOMETRY FOLDER [TOKENIZER].

Needs nothing but Python. The numbers are one list of normal ones, read again and again from where the last tensor
ended: its length is prime, so that no two rows are alike.
"""

import json
import random
import struct
import sys
from pathlib import Path

# Of the models' own config.json.
GEOMETRIES = {
    "tiny": dict(hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, head_dim=64, vocab_size=512, rope_theta=10000.0,
                 max_position_embeddings=1024, tie_word_embeddings=True),
    "smollm2-135m": dict(hidden_size=576, intermediate_size=1536, num_hidden_layers=30, num_attention_heads=9,
                         num_key_value_heads=3, head_dim=64, vocab_size=49152, rope_theta=100000.0,
                         max_position_embeddings=8192, tie_word_embeddings=True),
    "llama-3.2-1b": dict(hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=64, vocab_size=128256, rope_theta=500000.0,
                         max_position_embeddings=8192, tie_word_embeddings=True),
    "llama-3.1-8b": dict(hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
                         num_key_value_heads=8, head_dim=128, vocab_size=128256, rope_theta=500000.0,
                         max_position_embeddings=8192, tie_word_embeddings=False),
}
NUMBERS = 1_000_003
# Logits spread over several units, so that few of the largest are near ties.
EMBEDDING = 0.15


def tensors(of):
    """Name, shape and standard deviation of every tensor; None: all ones."""
    hidden, inner, dim = of["hidden_size"], of["intermediate_size"], of["head_dim"]
    query, kv = of["num_attention_heads"] * dim, of["num_key_value_heads"] * dim
    matrices = {"self_attn.q_proj": (query, hidden), "self_attn.k_proj": (kv, hidden),
                "self_attn.v_proj": (kv, hidden), "self_attn.o_proj": (hidden, query),
                "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden), "mlp.down_proj": (hidden, inner)}
    yield "model.embed_tokens.weight", (of["vocab_size"], hidden), EMBEDDING
    for layer in range(of["num_hidden_layers"]):
        for norm in ("input_layernorm", "post_attention_layernorm"):
            yield f"model.layers.{layer}.{norm}.weight", (hidden,), None
        for name, shape in matrices.items():
            yield f"model.layers.{layer}.{name}.weight", shape, shape[1] ** -0.5
    yield "model.norm.weight", (hidden,), None
    if not of["tie_word_embeddings"]:
        yield "lm_head.weight", (of["vocab_size"], hidden), EMBEDDING


def bf16(values):
    """Round to nearest, ties away: good enough for numbers that are random anyway."""
    words = struct.unpack(f"<{len(values)}I", struct.pack(f"<{len(values)}f", *values))
    return struct.pack(f"<{len(values)}H", *((word + 0x8000) >> 16 for word in words))


def write(folder, of):
    chance = random.Random(0)
    normal = [chance.gauss(0, 1) for _ in range(NUMBERS)]
    scaled = {}
    header, plan, at = {}, [], 0
    for name, shape, deviation in tensors(of):
        size = 2
        for length in shape:
            size *= length
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}
        plan.append((size, deviation))
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(folder / "model.safetensors", "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        position = 0
        for size, deviation in plan:
            if deviation is None:
                file.write(bf16([1.0]) * (size // 2))
                continue
            if deviation not in scaled:
                scaled[deviation] = memoryview(bf16([value * deviation for value in normal]))
            numbers = scaled[deviation]
            while size > 0:
                piece = numbers[position:position + size]
                file.write(piece)
                size -= len(piece)
                position = (position + len(piece)) % len(numbers)


def main():
    name, folder = sys.argv[1], Path(sys.argv[2])
    of = GEOMETRIES[name]
    folder.mkdir(parents=True, exist_ok=True)
    config = dict(of, model_type="llama", architectures=["LlamaForCausalLM"], hidden_act="silu", rms_norm_eps=1e-5,
                  torch_dtype="bfloat16", bos_token_id=1, eos_token_id=2)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    if len(sys.argv) > 3:
        (folder / "tokenizer.json").write_bytes(Path(sys.argv[3]).read_bytes())
    write(folder, of)


if __name__ == "__main__":
    main()
