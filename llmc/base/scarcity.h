// Memory and threads that are not to be had, where no exception reaches main() to say so.
//
// Libraries do not all look at what an allocation gives them: the program would end with signal 11. An exception on a
// thread that nobody waits for, or one whose way up needs memory itself, would end it with signal 6. A person should
// read one line, whatever it was.
#pragma once
#include <exception>
#include <string>

// From now on: such ends are one line, "NAME: error: out of memory ...", and exit code 1. Before any thread is started.
void end_in_one_line(const char* program_name);

// Starts the threads that loops over cores use, which would else begin at the first loop. Error if they cannot be had.
void start_threads();

// "out of memory", "cannot start a thread ...", or "" if it is neither.
std::string scarcity_reason(const std::exception& e);
