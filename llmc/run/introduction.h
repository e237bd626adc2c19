// What a training run says before it begins: model, data, batch, ranks, memory.
#pragma once
#include <functional>
#include <string>
#include <vector>
#include "llmc/model/activations.h"
#include "llmc/ranks/group.h"
#include "llmc/run/run.h"
#include "llmc/text/dataloader.h"

// memory: what the model takes of a rank with these options.
std::vector<std::string> introduction(const Run& run, int B, const DataLoader& data, const Group& group,
                                      const std::function<MemoryPlan(const StepOptions&)>& memory);
