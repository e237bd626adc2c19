// Runs a shell command as a person would; for tests of the programs.
#pragma once
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

struct CommandResult {
    int exit_code;  // 128 + signal if it was killed
    std::string out, err;
    int error_lines() const { return static_cast<int>(std::count(err.begin(), err.end(), '\n')); }
};

inline std::string read_text(const std::string& path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

// A directory of a test's own, removed at the end.
struct TemporaryDirectory {
    std::string path;
    TemporaryDirectory() {
        std::string name = (std::filesystem::temp_directory_path() / "train_gpt2_test_XXXXXX").string();
        path = mkdtemp(name.data());
    }
    ~TemporaryDirectory() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    TemporaryDirectory(const TemporaryDirectory&) = delete;
    std::string operator/(const std::string& name) const { return path + "/" + name; }
};

// Standard input is empty unless the command redirects it. Runs in directory `cwd`.
inline CommandResult run_shell(const std::string& command, const std::string& cwd = ".") {
    TemporaryDirectory capture;
    std::string whole =
        "cd '" + cwd + "' && { " + command + "\n} </dev/null >'" + capture / "out" + "' 2>'" + capture / "err" + "'";
    int status = system(whole.c_str());
    int code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    return {code, read_text(capture / "out"), read_text(capture / "err")};
}

// Absolute path of a program under test: environment variable `variable`, else ./name.
inline std::string program_path(const char* variable, const char* name) {
    const char* value = getenv(variable);
    return std::filesystem::absolute(value ? value : std::string("./") + name).string();
}
