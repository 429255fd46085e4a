// What `frspec generate` and `frspec chat` are asked for: their command lines, which share most options.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cli/arguments.h"
#include "cli/chat_prompts.h"
#include "cli/model_files.h"
#include "engine/engine.h"

namespace frspec {

struct Request {
  ModelFiles files;
  std::optional<std::string> prompt, file, token_file, system, system_file;
  TreeChoice tree;
  bool no_mmap = false;
  std::optional<std::string> ranks, sketch, adapt, draft, rope_scaling;
  std::optional<float> rope_scale;
  std::optional<std::uint64_t> seed = SamplingOptions{}.seed;
  ChatTemplateChoice chat_template;
  EngineOptions engine;
  GenerateOptions generate;
  std::vector<std::string> biases;
  std::string verify = "keyed";
  std::string cache = "f16";
  bool chat = false;
  bool parse_special = true;
  bool no_draft = false;
  bool escape = true;
  bool json = false;
  bool show_drafts = false;
};

enum class Command : std::uint8_t { Generate, Chat };

// Reads the command line; returns false where the help was asked for, and shown. Throws InvalidInput, FileNotFound.
bool read_request(Request& request, Command command, std::span<char* const> arguments);

// Loads the models, with a line of progress.
std::unique_ptr<Engine> load_engine(Request& request);

// The text of --system or of its file; throws as read_prompt.
std::optional<std::string> system_prompt(const Request& request);

}  // namespace frspec
