"""llama.cpp's own converter, where the variable FRSPEC_LLAMA_CPP names a checkout of llama.cpp."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

# It knows a splitting rule by what it does to one text, which a vocabulary of 400 tokens cuts otherwise; and a model's
# own class of tokenizers would add tokens that these do not have. What options have set in a class of models stays
# there.
_CONVERT_ALL = """
import json, sys
sys.path.insert(0, sys.argv[1])
import transformers
transformers.AutoTokenizer = transformers.PreTrainedTokenizerFast
import convert_hf_to_gguf as converter
from conversion.base import TextModel
TextModel.get_vocab_base_pre = lambda self, tokenizer: "unknown"
find = converter.get_model_class

def fresh(*arguments, **options):
    model = find(*arguments, **options)
    model.no_mtp = model.mtp_only = False
    return model

converter.get_model_class = fresh
for arguments in json.loads(sys.argv[2]):
    sys.argv[1:] = arguments
    converter.main()
"""


def convert_there(*jobs: list[str]) -> None:
    """Converts with these command lines, one after the other; skips the test where there is no checkout."""
    checkout = os.environ.get("FRSPEC_LLAMA_CPP")
    if not checkout:
        pytest.skip("FRSPEC_LLAMA_CPP names no checkout of llama.cpp")
    done = subprocess.run(
        [sys.executable, "-c", _CONVERT_ALL, checkout, json.dumps(jobs)], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
