// plan: what a training run on given GPUs would need and how long it would take; needs none of them.
#pragma once
#include <string>
#include <vector>

struct Options;

std::vector<std::string> plan_gpu_names();  // of --gpu
int plan_command(const Options& options);   // prints; returns the exit code
