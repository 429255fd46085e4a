// The splitting patterns and the table of pre-tokenizers.
#include "tokenizer/pretokenizer.h"

#include <algorithm>

#include "tokenizer/run_patterns.h"
#include "tokenizer/word_patterns.h"

namespace frspec {
namespace {

using Before = RunPattern::Before;

constexpr RunPattern kEachNumber = {.classes = kNumber, .max = 1};
constexpr RunPattern kThreeNumbers = {.classes = kNumber, .max = 3};
constexpr RunPattern kNumbers = {.classes = kNumber};
constexpr RunPattern kThreeDigits = {.ascii = "0123456789", .min = 3, .max = 3};
constexpr RunPattern kPunctuationRuns = {.classes = kPunctuation, .ascii = "$+<=>^~|"};
constexpr RunPattern kFalconPunctuationRuns = {.classes = kPunctuation, .ascii = "$+<=>^~|`"};
constexpr RunPattern kEachMark = {.classes = kPunctuation, .ascii = "$+<=>^`|~", .max = 1};
constexpr RunPattern kLineFeeds = {.ascii = "\n"};
constexpr RunPattern kEachLineEnd = {.ascii = "\r\n", .max = 1};

// BLOOM's: anything but whitespace and a few marks.
constexpr CodePoints kMarks[] = {{0x60C, 0x60C},   {0x6D4, 0x6D4},   {0x964, 0x964},
                                 {0x2026, 0x2026}, {0x3001, 0x3002}, {0xFF0C, 0xFF0C}};
constexpr RunPattern kUnmarked = {
    .classes = kWhitespace, .ascii = "(|.,!?)", .ranges = kMarks, .others = true, .before = Before::Space};

// DeepSeek's first models: letters of scripts that have capitals; marks of ASCII and of Chinese; Chinese and Korean.
constexpr CodePoints kCased[] = {
    {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},       {0xF8, 0x1BA},      {0x1BC, 0x1BF},
    {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},     {0x376, 0x376},     {0x377, 0x377},
    {0x37B, 0x37D},     {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},     {0x38C, 0x38C},
    {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},     {0x531, 0x556},
    {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},   {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},
    {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},
    {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},
    {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},   {0x1FBE, 0x1FBE},
    {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},   {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},
    {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},   {0x2107, 0x2107},   {0x210A, 0x2113},
    {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},   {0x2128, 0x2128},
    {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},   {0x2145, 0x2149},
    {0x214E, 0x214E},   {0x2183, 0x2183},   {0x2184, 0x2184},   {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},
    {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF2},   {0x2CF3, 0x2CF3},   {0xA640, 0xA66D},   {0xA680, 0xA69B},
    {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},   {0xAB70, 0xABBF},   {0xFB00, 0xFB06},
    {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3},
    {0x104D8, 0x104FB}, {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};
constexpr CodePoints kWideMarks[] = {{0x2018, 0x201F}, {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
constexpr CodePoints kEastAsian[] = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};
constexpr RunPattern kCasedRuns = {
    .ascii = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz", .ranges = kCased, .before = Before::Whitespace};
constexpr RunPattern kMarkRuns = {
    .ascii = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
    .ranges = kWideMarks,
    .before = Before::Whitespace};
constexpr RunPattern kEastAsianRuns = {.ranges = kEastAsian};
constexpr RunPattern kLetterRuns = {.classes = kLetter, .before = Before::Whitespace};
constexpr RunPattern kMarkClassRuns = {.classes = kPunctuation, .before = Before::Whitespace};

// Runs of single scripts, in newer ones.
constexpr CodePoints kChineseAndKana[] = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
constexpr RunPattern kChineseRuns = {.ranges = kChineseAndKana};
constexpr CodePoints kHangul[] = {{0x3131, 0x318E}, {0xAC00, 0xD7A3}};
constexpr CodePoints kBopomofo[] = {{0x3105, 0x312F}};
constexpr CodePoints kChineseMarks[] = {{0x2014, 0x2014}, {0x2018, 0x2018}, {0x2019, 0x2019}, {0x201C, 0x201C},
                                        {0x201D, 0x201D}, {0x2026, 0x2026}, {0x3001, 0x303F}, {0xFE30, 0xFE4F},
                                        {0xFF01, 0xFF01}, {0xFF0C, 0xFF0C}, {0xFF1A, 0xFF1A}, {0xFF1B, 0xFF1B}};
constexpr RunPattern kHangulRuns = {.ranges = kHangul}, kBopomofoRuns = {.ranges = kBopomofo},
                     kChineseMarkRuns = {.ranges = kChineseMarks};
// Arcee's: scripts without spaces, or of syllables.
constexpr CodePoints kAsian[] = {{0xE40, 0xE7F},   {0xE80, 0xEFF},   {0x1000, 0x109F}, {0x1100, 0x11FF},
                                 {0x1780, 0x17FF}, {0x2F00, 0x2FDF}, {0x3040, 0x30FF}, {0x3400, 0x4DBF},
                                 {0x4E00, 0x9FFF}, {0xA9E0, 0xA9FF}, {0xAA60, 0xAA7F}, {0xAC00, 0xD7AF},
                                 {0xF900, 0xFAFF}, {0xFF65, 0xFF9F}};
constexpr RunPattern kAsianRuns = {.ranges = kAsian};

constexpr FindPieceEnd kGpt2 = find_word_end<WordPattern{.contractions = Contractions::LowerCase,
                                                         .space_begins_words = true,
                                                         .symbols_take_line_ends = false,
                                                         .line_ends_alone = false}>;
constexpr FindPieceEnd kLlama3 = find_word_end<WordPattern{.max_digits = 3}>;
constexpr FindPieceEnd kQwen2 = find_word_end<WordPattern{.max_digits = 1}>;
constexpr FindPieceEnd kQwen35 = find_word_end<WordPattern{.marks_are_letters = true, .max_digits = 1}>;
constexpr FindPieceEnd kSeedCoder = find_word_end<WordPattern{.max_digits = 1, .symbols_take_line_ends = false}>;
constexpr FindPieceEnd kUfakzeka = find_word_end<WordPattern{.contractions = Contractions::None, .max_digits = 1}>;
constexpr FindPieceEnd kJais2 = find_word_end<WordPattern{.max_digits = 3, .spaces = Spaces::Halves}>;
constexpr FindPieceEnd kGpt4o = find_cased_end<CasedPattern{}>;
constexpr FindPieceEnd kTekken = find_cased_end<CasedPattern{.max_digits = 1, .contractions = false}>;
constexpr FindPieceEnd kYoutu = find_cased_end<CasedPattern{.max_digits = 1}>;
constexpr FindPieceEnd kKimi = find_cased_end<CasedPattern{.slashes = false, .han_apart = true}>;
constexpr FindPieceEnd kDeepSeek3 = find_punctuated_end<false>;

// "default" comes first: it is what a file without tokenizer.ggml.pre gets.
constexpr Pretokenizer kPretokenizers[] = {
    {.names = {"default"},
     .passes = {find_run_end<kPunctuationRuns>, kGpt2, find_run_end<kNumbers>, find_run_end<kThreeDigits>}},
    {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
               "jina-v5-nano"},
     .passes = {kLlama3},
     .ignores_merges = true,
     .adds_bos = true},
    {.names = {"smaug-bpe", "dbrx", "chatglm-bpe"}, .passes = {kLlama3}},
    {.names = {"glm4", "glm5"}, .passes = {kLlama3}, .ignores_merges = true},
    {.names = {"jais-2"}, .passes = {kJais2}},
    {.names = {"qwen2", "deepseek-r1-qwen", "stablelm2", "megrez", "hunyuan", "solar-open", "grok-2", "kormo",
               "f2llmv2", "bailingmoe", "bailingmoe2", "llada-moe"},
     .passes = {kQwen2}},
    {.names = {"qwen35"}, .passes = {kQwen35}},
    {.names = {"ufakzeka"}, .passes = {kUfakzeka}},
    {.names = {"laguna"}, .passes = {find_run_end<kLineFeeds>, kQwen2}},
    {.names = {"seed-coder"}, .passes = {kSeedCoder}},
    {.names = {"gpt-2", "phi-2", "mpt", "olmo", "jais", "gigachat", "exaone4", "trillion", "granite-docling", "a.x-4.0",
               "mellum", "jina-es", "jina-de", "jina-v2-es", "jina-v2-de", "jina-v2-code", "jina-v1-en", "roberta-bpe",
               "modern-bert"},
     .passes = {kGpt2}},
    {.names = {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b", "mellum2"},
     .passes = {find_run_end<kEachNumber>, kGpt2}},
    {.names = {"minicpm5"}, .passes = {find_run_end<kThreeNumbers>, kLlama3}, .ignores_merges = true},
    {.names = {"falcon"}, .passes = {find_run_end<kFalconPunctuationRuns>, kGpt2, find_run_end<kThreeDigits>}},
    {.names = {"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, .passes = {kGpt4o}},
    {.names = {"granite-embed-multi-97m"}, .passes = {kGpt4o}, .ignores_merges = true},
    {.names = {"tekken"}, .passes = {kTekken}, .ignores_merges = true, .adds_bos = true},
    {.names = {"tiny_aya", "cohere2moe"}, .passes = {find_three_end<Threes::Digits>, kGpt4o}},
    {.names = {"youtu"},
     .passes = {find_run_end<kHangulRuns>, find_run_end<kChineseMarkRuns>, find_run_end<kBopomofoRuns>,
                find_run_end<kChineseRuns>, kYoutu},
     .ignores_merges = true},
    {.names = {"kimi-k2"}, .passes = {kKimi}},
    {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"},
     .passes = {find_run_end<kThreeNumbers>, find_run_end<kChineseRuns>, kDeepSeek3}},
    {.names = {"spark2_5"},
     .passes = {find_run_end<kThreeNumbers>, find_run_end<kChineseRuns>, find_punctuated_end<true>,
                find_run_end<kEachNumber>}},
    {.names = {"afmoe"}, .passes = {find_three_end<Threes::Numbers>, find_run_end<kAsianRuns>, kDeepSeek3}},
    {.names = {"deepseek-coder"},
     .passes = {find_run_end<kEachLineEnd>, find_run_end<kLetterRuns>, find_run_end<kMarkClassRuns>,
                find_run_end<kEastAsianRuns>, find_run_end<kEachNumber>}},
    {.names = {"deepseek-llm"},
     .passes = {find_run_end<kEachLineEnd>, find_run_end<kCasedRuns>, find_run_end<kMarkRuns>, find_trailing_space,
                find_run_end<kEastAsianRuns>, find_run_end<kNumbers>}},
    {.names = {"exaone-moe"}, .passes = {find_phrase_end}},
    {.names = {"bloom", "gpt3-finnish", "poro-chat"}, .passes = {find_run_end<kUnmarked>}},
    {.names = {"viking"}, .passes = {find_run_end<kUnmarked>, find_run_end<kEachNumber>}},
    {.names = {"chameleon"},
     .passes = {find_chameleon_end, find_run_end<kEachNumber>, find_run_end<kEachMark>, kGpt2},
     .adds_bos = true},
    {.names = {"superbpe"}, .passes = {find_run_end<kNumbers>, find_three_end<Threes::Cuts>}},
};

}  // namespace

const Pretokenizer* find_pretokenizer(std::string_view name) {
  for (const Pretokenizer& entry : kPretokenizers) {
    if (!name.empty() && std::ranges::find(entry.names, name) != entry.names.end()) return &entry;
  }
  return nullptr;
}

std::span<const Pretokenizer> all_pretokenizers() { return kPretokenizers; }

}  // namespace frspec
