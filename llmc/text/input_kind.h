// What an input is, by its first bytes: text, or something else that a person took for text.
#pragma once
#include <string>
#include <string_view>

constexpr size_t kHeadBytes = 1 << 16;  // so many bytes are looked at

struct NoText {
    std::string what;     // "is compressed"; "" for text
    std::string command;  // that prints its text; "" if there is none
};
NoText why_no_text(std::string_view head, const std::string& file);

// A text that a person wrote into a file or typed, without what programs put around it: a byte order mark, Windows' line
// ends and, if a newline ends it, white space at its end. Error if it is no text; `name` says where it is from.
std::string written_text(std::string text, const std::string& name);

// A vocabulary, log or description of a model that this project or Hugging Face's programs wrote beside others of the
// kind: such files are in a directory of data sets or runs, and no text to learn from.
bool is_own_file(const std::string& path);
bool is_own_directory(const std::string& path);  // a checkpoint, step_00001000
