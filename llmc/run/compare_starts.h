// Whether all ranks are about to do the same: what each of them is about to do, as text, and the comparison.
#pragma once
#include <string>
#include <vector>
#include "llmc/base/error.h"
#include "llmc/run/run.h"

// What this rank is about to do, and on which `device`. A rank that could not prepare gives the error instead.
std::string start_description(const Run& run, const std::string& device);
std::string start_description(const Error& error);
// Error names the first rank that differs from rank 0, and in what; or the first that could not prepare, and why.
void compare_starts(const std::vector<std::string>& descriptions);
