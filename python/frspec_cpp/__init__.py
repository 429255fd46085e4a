"""Lossless speculative decoding for GGUF language models.

>>> import frspec_cpp
>>> frspec_cpp.generate("def fibonacci(n):", max_tokens=64).text     # the bundled demo pair
>>> llm = frspec_cpp.LLM("target.gguf", drafter="eagle2.gguf", head="ranked:32768")
>>> llm.generate("Once upon a time", max_tokens=256)
"""

from frspec_cpp._core import GgufFile, GgufTensor, Tokenizer, cpu_instruction_sets
from frspec_cpp._core import version as __version__
from frspec_cpp.async_llm import AsyncLLM, AsyncText, NotAccepting, QueueFull, QueueTimeout
from frspec_cpp.bench import bench
from frspec_cpp.conversation import Conversation
from frspec_cpp.demo import demo_paths, generate
from frspec_cpp.generation import Generation, Stats, Step, TokenLogprobs
from frspec_cpp.grammar import Grammar
from frspec_cpp.llm import LLM
from frspec_cpp.model_warning import ModelWarning
from frspec_cpp.option_table import EngineOptions, Options
from frspec_cpp.options import LogitsProcessor
from frspec_cpp.overlap import VocabularyOverlap, vocabulary_overlap
from frspec_cpp.texts import Cancelled, PendingText, Piece, Reading, Started, Token

__all__ = [
    "LLM",
    "AsyncLLM",
    "AsyncText",
    "Cancelled",
    "Conversation",
    "EngineOptions",
    "Generation",
    "GgufFile",
    "GgufTensor",
    "Grammar",
    "LogitsProcessor",
    "ModelWarning",
    "NotAccepting",
    "Options",
    "PendingText",
    "Piece",
    "QueueFull",
    "QueueTimeout",
    "Reading",
    "Started",
    "Stats",
    "Step",
    "Token",
    "TokenLogprobs",
    "Tokenizer",
    "VocabularyOverlap",
    "__version__",
    "bench",
    "cpu_instruction_sets",
    "demo_paths",
    "generate",
    "vocabulary_overlap",
]
