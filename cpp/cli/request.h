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
#include "engine/option_table.h"

namespace frspec {

struct Request : Choices {
  ModelFiles files;
  std::optional<std::string> prompt, file, token_file, system, system_file;
  std::optional<float> rope_scale;
  ChatTemplateChoice chat_template;
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
