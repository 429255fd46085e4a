r"""The regular expressions of published tokenizers, and the names that GGUF gives to them.

They are kept in one spelling (`canonical`), since checkpoints write the same expression in several ways.
"""

from __future__ import annotations

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD, _SYMBOLS = r"[^\r\n\p{L}\p{N}]?\p{L}+", r"| ?[^\s\p{L}\p{N}]+"

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PUNCTUATION = r"[\p{P}!-/:-@\[-`{-~]"  # as the step of this name; its table of Unicode is older
_LLAMA3 = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}{_SYMBOLS}[\r\n]*{_SPACES}"
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_QWEN35 = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*" + _SPACES
)  # marks are letters
_SEED_CODER = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}| ?[^\s\p{{L}}\p{{N}}\r\n]+{_SPACES}"
_MINICPM5 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}+")
_JAIS2 = (
    _LLAMA3.removesuffix(r"|\s+(?!\S)|\s+")
    + "".join(rf"|\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4, "1,2"))
    + r"|\s"
)
_EXAONE_MOE = (
    _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?(?:\p{L}\p{M}*(?: \p{L}\p{M}*)*)+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?" + _SPACES
)

_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PREFIX = r"[^\r\n\p{L}\p{N}]?"
_TEKKEN = rf"{_PREFIX}{_UPPER}*{_LOWER}+|{_PREFIX}{_UPPER}+{_LOWER}*|\p{{N}}{_SYMBOLS}[\r\n/]*{_SPACES}"
_GPT4O = (
    rf"{_PREFIX}{_UPPER}*{_LOWER}+{_CONTRACTIONS}?|{_PREFIX}{_UPPER}+{_LOWER}*{_CONTRACTIONS}?"
    rf"|\p{{N}}{{1,3}}{_SYMBOLS}[\r\n/]*{_SPACES}"
)
_KIMI = r"[\p{Han}]+|" + _GPT4O.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]").replace("/", "")
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    r"| ?[\p{P}\p{S}]+[\r\n]*" + _SPACES
)
_SPARK = _DEEPSEEK3.replace(r"[\p{P}\p{S}]+[\r\n]*", r"[\p{P}\p{S}]+").replace(r"|\s*[\r\n]+", r"|[\r\n]")

_NUMBER, _THREE_NUMBERS, _NUMBERS, _THREE_DIGITS = r"\p{N}", r"\p{N}{1,3}", r"\p{N}+", r"[0-9][0-9][0-9]"
_CHINESE = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_YOUTU = (
    "[\uac00-\ud7a3\u3131-\u318e]+"
    "|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c\u3001-\u303f\ufe30-\ufe4f]+"
    f"|[\u3105-\u312f]+|{_CHINESE}"
)
_ASIAN = (
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\u3040-\u309f\u30a0-\u30ff\uff65-\uff9f\u2f00-\u2fdf\u0e40-\u0e7f\u0e80-\u0eff"
    "\u1780-\u17ff\u1000-\u109f\uaa60-\uaa7f\ua9e0-\ua9ff\uac00-\ud7af\u1100-\u11ff]+"
)
_UNMARKED = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
# DeepSeek LLM's: letters of scripts that have capitals; marks.
_CASED = (
    r"\s?[A-Za-z"
    "\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af\u0370-\u0373\u0376"
    "\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-"
    "\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a"
    "\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc"
    "\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f"
    "\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b"
    "\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
    "]+"
)
_WIDE_MARKS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"

# Rules, each of which splits the pieces of the one before -> whether a piece that is a whole token is never merged ->
# the name.
NAMES: dict[tuple[str, ...], dict[bool, str]] = {
    (_LLAMA3,): {True: "llama-bpe", False: "smaug-bpe"},
    (_QWEN2,): {False: "qwen2"},
    (_QWEN35,): {False: "qwen35"},
    (_QWEN2.removeprefix(f"{_CONTRACTIONS}|"),): {False: "ufakzeka"},
    (r"[^\n]+|[\n]+", _QWEN2): {False: "laguna"},
    (_SEED_CODER,): {False: "seed-coder"},
    (_THREE_NUMBERS, _MINICPM5): {True: "minicpm5"},
    (_JAIS2,): {False: "jais-2"},
    (GPT2,): {False: "gpt-2"},
    (_NUMBER, GPT2): {False: "smollm"},
    (r"[\p{P}\$\+<=>\^~\|]+", GPT2, _NUMBERS, _THREE_DIGITS): {False: "default"},
    (r"[\p{P}\$\+<=>\^~\|`]+", GPT2, _THREE_DIGITS): {False: "falcon"},
    (_GPT4O,): {False: "gpt-4o", True: "granite-embed-multi-97m"},
    (_TEKKEN,): {True: "tekken"},
    (r"\d{1,3}(?=(?:\d{3})*\b)", _GPT4O): {False: "tiny_aya"},
    (_YOUTU, _GPT4O.replace(_THREE_NUMBERS, _NUMBER)): {True: "youtu"},
    (_KIMI,): {False: "kimi-k2"},
    (_THREE_NUMBERS, _CHINESE, _DEEPSEEK3): {False: "deepseek-v3"},
    (_THREE_NUMBERS, _CHINESE, _SPARK, _NUMBER): {False: "spark2_5"},
    (r"\p{N}{1,3}(?=(?:\p{N}{3})*(?!\p{N}))", _ASIAN, _DEEPSEEK3): {False: "afmoe"},
    (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN, _NUMBER): {False: "deepseek-coder"},
    (r"[\r\n]", _CASED, _WIDE_MARKS, r"\s+$", _EAST_ASIAN, _NUMBERS): {False: "deepseek-llm"},
    (_EXAONE_MOE,): {False: "exaone-moe"},
    (_UNMARKED,): {False: "bloom"},
    (_UNMARKED, _NUMBER): {False: "viking"},
    (
        "<sentinel:[0-9]+>",
        "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z",
        r"([\t\n]|    |  )",
        _NUMBER,
        PUNCTUATION,
        GPT2,
    ): {False: "chameleon"},
    (_NUMBERS, r"(?=(\d{3})+(?!\d))"): {False: "superbpe"},
}
# Between the matches of these nothing is left of any text.
COVERING = (GPT2, _LLAMA3, _QWEN2, _QWEN35, _GPT4O, _TEKKEN, _JAIS2)

_SPELLINGS = (
    ("\r", r"\r"),
    ("\n", r"\n"),
    (r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])", _CONTRACTIONS),
    (r"'(?i:[sdmt]|ll|ve|re)", _CONTRACTIONS),
    (r"?+", "?"),  # not giving back what was matched changes nothing here: what follows is of another class
    (r"++", "+"),
    (r"\p{N}{1}", r"\p{N}"),
    (r"|\s*[\r\n]|", r"|\s*[\r\n]+|"),  # \s* takes the other line ends
)


def canonical(expression: str) -> str:
    """The expression in the spelling of this file, where it is one of these."""
    for spelling, ours in _SPELLINGS:
        expression = expression.replace(spelling, ours)
    if expression.endswith(r"|\s{1}"):
        expression = expression.removesuffix("{1}")
    # What is left of white space is one character, which nothing else takes.
    return f"{expression}|\\s+" if expression == GPT2.removesuffix(r"|\s+") else expression
