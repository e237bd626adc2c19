#include "llmc/files/run_directory.h"

#include <unistd.h>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>

#include "llmc/base/error.h"
#include "llmc/base/files.h"

namespace fs = std::filesystem;

std::string step_name(int64_t step) { return strf("step_%08lld", static_cast<long long>(step)); }

int64_t step_of(const std::string& name) {
    if (name.size() < 13 || name.size() > 23 || name.compare(0, 5, "step_") != 0 ||
        name.find_first_not_of("0123456789", 5) != std::string::npos)
        return -1;
    int64_t step = std::stoll(name.substr(5));
    return step_name(step) == name ? step : -1;
}

bool is_whole_checkpoint(const std::string& dir) { return is_file(dir + "/trainer_state.json"); }

static std::string below(const std::string& dir, const std::string& name) { return (fs::path(dir) / name).string(); }

void rename_path(const std::string& from, const std::string& to) {
    std::error_code error;
    fs::rename(from, to, error);
    if (error) throw Error(strf("cannot rename %s to %s: %s", from.c_str(), to.c_str(), error.message().c_str()));
}

std::map<int64_t, std::string> checkpoints_by_step(const std::string& output) {
    std::map<int64_t, std::string> found;
    for (const std::string& name : names_in(output)) {
        bool old = name.size() > 4 && name.compare(name.size() - 4, 4, ".old") == 0;
        int64_t step = step_of(old ? name.substr(0, name.size() - 4) : name);
        std::string dir = below(output, name);
        if (step < 0 || !is_whole_checkpoint(dir)) continue;
        if (old) found.emplace(step, dir);
        else found[step] = dir;
    }
    return found;
}

std::string temporary_name(const std::string& output, const std::string& name) {
    return below(output, strf(".tmp_%s.%d", name.c_str(), static_cast<int>(getpid())));
}

// Renamed first: a checkpoint that is half deleted must not look whole.
void delete_checkpoint(const std::string& output, const std::string& dir) {
    std::string doomed = temporary_name(output, fs::path(dir).filename().string() + ".deleted");
    std::error_code error;
    fs::remove_all(doomed, error);
    rename_path(dir, doomed);
    fs::remove_all(doomed, error);
    if (error) throw Error(strf("cannot delete %s: %s", doomed.c_str(), error.message().c_str()));
}

// Whether `id` is a running process of this program: numbers are given again, and a dead process may wait for its
// parent.
static bool is_ours_and_runs(int id) {
    auto name_and_state = [](const std::string& who) {  // "(train_gpt2) S" of "123 (train_gpt2) S 1 ..."
        std::ifstream file("/proc/" + who + "/stat");
        std::string line;
        std::getline(file, line);
        size_t open = line.find('('), close = line.rfind(')');
        return close == std::string::npos ? std::string() : line.substr(open, close + 3 - open);
    };
    std::string it = name_and_state(std::to_string(id)), own = name_and_state("self");
    return !it.empty() && it.back() != 'Z' && it.substr(0, it.size() - 1) == own.substr(0, own.size() - 1);
}

// Clears up after processes that died while they saved or deleted: .tmp_step_NAME.PID, and step_NAME.old.
void clear_leftovers(const std::string& output, bool alone) {
    for (const std::string& name : names_in(output)) {
        std::string path = below(output, name);
        if (name.rfind(".tmp_step_", 0) == 0) {
            std::string pid = name.substr(name.rfind('.') + 1);
            if (pid.empty() || pid.size() > 9 || pid.find_first_not_of("0123456789") != std::string::npos) continue;
            int id = std::stoi(pid);
            bool alive = !alone && id != getpid() && is_ours_and_runs(id);
            std::error_code ignored;  // it only takes room
            if (!alive) fs::remove_all(path, ignored);
        } else if (name.size() > 4 && name.compare(name.size() - 4, 4, ".old") == 0) {
            std::string newer = path.substr(0, path.size() - 4);
            if (step_of(name.substr(0, name.size() - 4)) < 0 || !is_whole_checkpoint(path)) continue;
            if (is_whole_checkpoint(newer)) delete_checkpoint(output, path);
            else if (!path_exists(newer)) rename_path(path, newer);
        }
    }
}

std::vector<std::string> false_checkpoints(const std::string& output) {
    std::vector<std::string> dirs;
    for (const std::string& name : names_in(output))
        if (step_of(name) >= 0 && !is_whole_checkpoint(below(output, name))) dirs.push_back(below(output, name));
    std::sort(dirs.begin(), dirs.end());
    return dirs;
}

std::string set_aside(const std::string& path) {
    const fs::path p(path);
    for (int i = 0;; i++) {
        const std::string number = i == 0 ? "" : "." + std::to_string(i);
        const std::string to = p.parent_path() / (p.stem().string() + ".aside" + number + p.extension().string());
        if (path_exists(to)) continue;
        rename_path(path, to);
        return to;
    }
}

std::vector<std::string> list_checkpoints(const std::string& output) {
    std::vector<std::string> dirs;
    for (auto& [step, dir] : checkpoints_by_step(output)) dirs.push_back(dir);
    return dirs;
}

std::string newest_checkpoint(const std::string& output) {
    std::vector<std::string> dirs = list_checkpoints(output);
    return dirs.empty() ? "" : dirs.back();
}

void delete_old_checkpoints(const std::string& output, int keep, int64_t major_every, int64_t best) {
    if (keep <= 0) return;
    std::map<int64_t, std::string> found = checkpoints_by_step(output);
    size_t excess = found.size() - std::min(found.size(), static_cast<size_t>(keep));
    for (auto& [step, dir] : found) {
        if (excess-- == 0) break;
        if (step != best && (major_every <= 0 || step % major_every != 0)) delete_checkpoint(output, dir);
    }
}
