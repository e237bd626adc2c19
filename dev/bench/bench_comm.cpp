// One line for each ZeRO stage: how much of a training step is communication, and how much of that the step waits for.
//
//   step           seconds of model.step()
//   communication  time in which the stream of collectives was at work
//   waited for     time in which the step stood still until a collective had ended: what is not hidden
//
// Every other step waits for each collective at once (HostStream::overlap = false): what the same step costs without
// working beside its communication. Medians over steps, means over ranks. Waiting includes waiting for a rank that is
// late. Run by mpirun; rank 0 prints. Usage: bench_comm [steps]
#include "llmc/cpu/machine.h"
#include "llmc/gpt2.h"

#include <chrono>
#include <cstdio>

namespace {

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double median(std::vector<double> v) {
    std::sort(v.begin(), v.end());
    return v[v.size() / 2];
}

constexpr int kMicroBatch = 2, kMicroSteps = 2;
const ModelConfig config{4, 4, 256, 128, 5000};

struct Times {
    std::vector<double> step, busy, waited;
    void print(Group& group) const {
        double w = group.world(), all = group.sum(median(step)) / w, b = group.sum(median(busy)) / w;
        double stood = group.sum(median(waited)) / w;
        if (group.rank() == 0)
            printf(" %7.1f | %7.1f | %7.1f | %5.1f %% |", 1e3 * all, 1e3 * b, 1e3 * stood, 100 * stood / all);
    }
};

void bench(Group& group, int stage, int steps) {
    StepOptions o;
    o.B = kMicroBatch, o.T = config.T;
    o.rank = group.rank(), o.world = group.world(), o.zero_stage = stage;
    GPT2<float, Cpu> model(config, o, std::make_unique<Communicator>(group));
    model.init_weights(1);
    Batch batch;
    batch.sequences = kMicroBatch * kMicroSteps, batch.T = config.T;
    for (int i = 0; i < batch.sequences * batch.T; i++) {
        batch.inputs.push_back((i * 7 + group.rank() * 13) % config.V);
        batch.targets.push_back((i * 7 + group.rank() * 13 + 7) % config.V);
    }
    Times with, without;
    for (int i = -4; i < 2 * steps; i++) {  // the first four meet cold memory
        StepState s;
        s.learning_rate = 1e-4f, s.beta1_correction = 0.1f, s.beta2_correction = 0.05f;
        s.rank_first_sample = static_cast<uint32_t>(group.rank() * batch.sequences);
        s.loss_normaliser = 1.0f / static_cast<float>(group.world() * batch.sequences * batch.T);
        HostStream& stream = model.machine().network();
        stream.overlap = i % 2 == 0;
        stream.clear_times();
        group.barrier();
        double begin = seconds();
        model.step(batch, &s);
        double time = seconds() - begin;
        Times& t = stream.overlap ? with : without;
        if (i < 0) continue;
        t.step.push_back(time), t.busy.push_back(stream.times().busy), t.waited.push_back(stream.times().waited);
    }
    if (group.rank() == 0) printf("| %d | %d |", group.world(), stage);
    with.print(group), without.print(group);
    if (group.rank() == 0) printf("\n"), fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
    int steps = argc > 1 ? atoi(argv[1]) : 30;
    try {
        Group group(find_ranks({}), 60);
        for (int stage = 0; stage <= (group.world() > 1 ? 3 : 0); stage++) bench(group, stage, steps);
        return 0;
    } catch (const std::exception& e) {
        fprintf(stderr, "bench_comm: error: %s\n", e.what());
        return 1;
    }
}
