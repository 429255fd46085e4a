"""The five most probable next tokens after each token of a text, from the logits of one pass."""

import numpy as np

import frspec_cpp

llm = frspec_cpp.LLM(frspec_cpp.demo_paths()[0])
ids = llm.tokenize("def add(a, b):\n    return")
logits = llm.forward(ids)  # (len(ids), vocab_size)
for token, row in zip(ids, logits, strict=True):
    best = np.argsort(-row)[:5]
    print(repr(llm.tokenizer.token_text(token)), "->", [llm.detokenize([int(i)]) for i in best])
