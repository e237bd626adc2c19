// The directory of a run, OUT: which checkpoints (step_00001000, ...) it holds, and what is not one of them.
//
// A checkpoint is written as .tmp_step_00001000.PID, deleted as .tmp_step_00001000.deleted.PID, and replaced by way of
// step_00001000.old; PID is the process at work. What dead processes left of these is cleared by the next that saves.
#pragma once
#include <cstdint>
#include <map>
#include <string>
#include <vector>

// Directory of the newest whole checkpoint below `output`, "" if there is none. Half-written ones (.tmp_*) and
// directories of other names or without trainer_state.json are no checkpoints.
// Error: `output` is there and cannot be listed.
std::string newest_checkpoint(const std::string& output);
std::vector<std::string> list_checkpoints(const std::string& output);  // oldest first
// Steps with the directory of each. A replacement that was cut short between its two renames has left the old
// checkpoint as step_....old.
std::map<int64_t, std::string> checkpoints_by_step(const std::string& output);
int64_t step_of(const std::string& name);  // 1000 of "step_00001000"; -1 of any other name

// What is called step_N and is no whole checkpoint: a checkpoint of that step could not be saved.
std::vector<std::string> false_checkpoints(const std::string& output);
// Renames what nobody should take for part of the run any more: log.jsonl to log.aside.jsonl, or log.aside.1.jsonl, ...
std::string set_aside(const std::string& path);

// Deletes all checkpoints but the newest `keep` (0 = keep all) and those of steps that are multiples of `major_every`
// (0 = none is major), and that of step `best`. Whatever is no whole checkpoint stays. Error names one that cannot be deleted.
void delete_old_checkpoints(const std::string& output, int keep, int64_t major_every, int64_t best = -1);

// ---- for those who write checkpoints ----

std::string step_name(int64_t step);  // "step_00001000"
// Whether trainer_state.json is in place, which is so only in a directory that was renamed when it was whole.
bool is_whole_checkpoint(const std::string& dir);
// Where this process prepares, or deletes, what is called `name` below `output`.
std::string temporary_name(const std::string& output, const std::string& name);
void rename_path(const std::string& from, const std::string& to);                  // Error names both
void delete_checkpoint(const std::string& output, const std::string& checkpoint);  // Error names it
// What dead processes left; alone: this process holds the directory's lock, so all others are dead.
void clear_leftovers(const std::string& output, bool alone = false);
