// The commands that run a model, each in a file of its own.
#pragma once
#include <memory>
#include "llmc/run/chat_command.h"
#include "llmc/run/eval_command.h"
#include "llmc/run/sample_command.h"
#include "llmc/run/trainer.h"

template <Model M>
int train_command(Run run, Group& group) {
    auto trainer = std::make_unique<Trainer<M>>(std::move(run), group);
    try {
        return trainer->train();
    } catch (...) {
        // With several ranks nothing is taken down in order, which could wait for ranks that are gone: the program
        // ends.
        if (group.world() > 1) (void)trainer.release();
        throw;
    }
}

template <Model M>
int run_command(Run run, Group& group) {
    switch (run.options.command) {
        case Command::train:
        case Command::finetune:
            return train_command<M>(std::move(run), group);
        case Command::sample:
            return sample_command<M>(std::move(run));
        case Command::chat:
            return chat_command<M>(std::move(run));
        case Command::eval:
            return eval_command<M>(std::move(run), group);
        case Command::export_model:
        case Command::plan:
        case Command::plot:
            break;  // need no Run of a model
    }
    return 2;
}
