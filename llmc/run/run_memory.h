// The memory of a training run: what it takes at its peak, of the host and of a GPU, and what it does to fit.
#pragma once
#include <string>
#include <vector>
#include "llmc/base/human.h"
#include "llmc/base/system.h"
#include "llmc/run/frozen.h"
#include "llmc/cpu/host_memory.h"
#include "llmc/run/memory_limit.h"
#include "llmc/run/model.h"
#include "llmc/run/policy.h"
#include "llmc/run/run.h"

template <Model M>
struct RunMemory {
    int B = 1;                       // sequences per micro-batch
    bool copies = true;              // checkpoints are written beside training, from a copy
    double stated = 0;               // bytes of the device at the peak: of the host where that is the device
    double free_before = 0;          // on the device
    std::vector<std::string> lines;  // for people

    // Chooses what the options leave open, and writes it into run.options: recorded, a resume takes the same, whatever is free
    // then. Error: nothing fits.
    RunMemory(Run& run, Group& group) {
        constexpr bool on_host = M::Device::kIsHost;
        const double program =
            group.most(resident_memory());  // the most that any rank has, and the least that is free:
        free_before = static_cast<double>(M::Device::library_bytes());  // which the library has taken already
        free_before -= group.most(-M::Device::available_memory());
        const auto host = [&](const PlanSetup& s, double* device) {
            StepOptions options = run.step_options(s.B);
            options.recompute = s.recompute, options.state_type = s.state_type, options.offload = s.offload;
            options.fuse_update = s.fuse_update;
            const MemoryPlan plan = M::memory_plan(run.config, options);
            size_t beside = frozen_bytes<M>(run.teacher, run, s.B);
            if (run.policy) beside += Policy<M>::bytes(run, s.B);
            else if (run.options.sample_every > 0)
                beside += Decoder<typename M::Model>::bytes(run.config, 1, run.config.T, options.adapters);
            const double others = static_cast<double>(beside);
            const HostMemory h =
                host_memory({run.config, options, run.bf16, on_host, s.checkpoint_every > 0 && s.copy_checkpoints,
                             s.own_sequences() * run.T, others, program},
                            plan);
            *device = on_host ? h.peak() : static_cast<double>(plan.total()) + others;
            return h;
        };
        const auto demand = [&](const PlanSetup& s) {
            double device = 0;
            host(s, &device);
            return device;
        };
        FittedRun fitted =
            fit_run(run, on_host, M::Device::peak_flops(run.bf16), free_before + (on_host ? program : 0), demand);
        PlanSetup& s = fitted.setup;
        Options& o = run.options;
        // the least that any rank has room for
        const auto most = [&](int x) { return static_cast<int>(group.most(x)); };
        o.micro_batch_size = B = s.B = -most(-s.B), o.recompute = s.recompute = most(s.recompute);
        s.state_type = static_cast<StateType>(most(static_cast<int>(s.state_type)));
        o.state_type = kStateTypes[static_cast<size_t>(s.state_type)];
        s.fuse_update = static_cast<FuseUpdate>(most(static_cast<int>(s.fuse_update)));
        o.fuse_update = kFuseUpdates[static_cast<size_t>(s.fuse_update)];
        o.offload = "";
        for (const std::string& list : group.exchange(offload_text(s.offload)))
            if (list.size() > o.offload.size()) o.offload = list;
        s.offload = offload_of(o);
        copies = s.copy_checkpoints = -most(-int(s.copy_checkpoints));
        const HostMemory h = host(s, &stated);
        check_host_memory(o, static_cast<size_t>(h.offloaded), group.world());
        if (!on_host)
            lines.push_back(
                strf("memory of the GPU: %s at the peak, beside what CUDA's context and graphs take; %s are free",
                     human_bytes(stated).c_str(), human_bytes(free_before).c_str()));
        lines.push_back("memory of the host: " + h.text());
        lines.insert(lines.end(), fitted.lines.begin(), fitted.lines.end());
    }
    // At the end of a run.
    std::string measured() const {
        const double peak = M::Device::kIsHost ? peak_resident_memory() : free_before - M::Device::available_memory();
        return strf("memory: %s at the peak, %s stated", human_bytes(peak).c_str(), human_bytes(stated).c_str());
    }
};
