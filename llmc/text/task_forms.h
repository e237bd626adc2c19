// The forms that a line of a task's file may have (tasks.h), and the small text functions that they need.
#pragma once
#include <string>
#include <string_view>
#include <vector>
#include "llmc/text/tasks.h"

struct TaskForm {
    const char* name;
    TaskKind kind;
    bool own;                        // for data of one's own, which a file's first line tells
    const char *fields, *tell_tale;  // for a person to read; by which it does
};

const TaskForm* named_form(std::string_view name);  // nullptr: there is none
const TaskForm* own_form(std::string_view line);
std::string own_forms();                                              // their fields, for a message
Question read_question(const TaskForm& form, std::string_view line);  // Error: it is no such question

size_t length_of_blank(std::string_view text);  // bytes of the white space (Unicode's) at its begin
std::string_view trimmed_end(std::string_view text);
std::string_view trimmed(std::string_view text);
std::string joined(const std::vector<std::string>& words, const char* between);
