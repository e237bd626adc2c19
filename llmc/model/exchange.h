// What travels between ranks during a step: gradients to their owners, weights to their users.        (zero.h: who owns what)
//
// Buckets (the embeddings, each block, the final layernorm) travel in a stream of their own, network(), beside the
// stream in which the layers work; events say what has to wait for what. The model says when it begins with a bucket's
// weights or gradients and when it is done; at stage 0 with one rank nothing happens here, but that gradients which
// layers add to are cleared.
#pragma once
#include <algorithm>
#include <iterator>
#include <memory>
#include <vector>
#include "llmc/base/turns.h"
#include "llmc/model/memory.h"

template <typename X, class Machine>
class Exchange {
  public:
    using A = acc_t<X>;
    using G = grad_t<X>;
    using Communicator = typename Machine::Communicator;

    Exchange(Machine& machine, const ModelMemory<X, typename Machine::Arena>& memory)
        : machine_(machine), memory_(memory), weights_(machine), gradients_(machine) {}

    // comm: null with one rank.
    void start(Communicator* comm) {
        comm_ = comm;
        weights_.start(), gradients_.start();
    }
    // Waits for everything. Ranks that wait for others are watched (group.h).
    void finish() { machine_.finish(comm_); }

    // ---- weights (stage 3, and where they are offloaded) ----

    // Bucket b's weights are gathered into their slot, unless they lie there; need_weights() waits for them.
    void fetch_weights(int b) {
        int slot = memory_.shards.slot(b);
        if (memory_.whole_weights() || b >= memory_.shards.buckets() || resident_[slot] == b) return;
        resident_[slot] = b;
        const int64_t n = memory_.shards.part(b);
        X *part = memory_.weight_part + memory_.shards.local(b), *here = memory_.weight_slots[slot];
        if (memory_.away.weights) {
            here += memory_.stage < 3 ? 0 : memory_.rank * n;
            weights_.fetch(slot, [&] { machine_.bring(here, part, n); });
            if (memory_.stage < 3) return;
            part = here;
        }
        const auto gather = [&] {
            comm_->all_gather(memory_.weight_slots[slot], part, static_cast<size_t>(n), machine_.network());
        };
        weights_.need(slot, Lane::network), weights_.fetch(slot, gather, Lane::network);
    }
    void need_weights(int b) {
        fetch_weights(b);
        if (b < memory_.shards.buckets()) weights_.need(memory_.shards.slot(b));
    }
    // The embeddings and the final layernorm have slots of their own: they stay for a whole step.
    void need_weights_of_all_micro_steps() { need_weights(0), need_weights(memory_.shards.buckets() - 1); }
    // A pass over the blocks begins with their slots empty, each time alike: it may be captured.
    void begin_pass() { std::fill(resident_ + Sharding::kFirstBlockSlot, std::end(resident_), -1); }
    // The weights have changed.
    void forget_weights() { std::fill_n(resident_, Sharding::kSlots, -1); }

    // ---- gradients ----

    // A micro-step begins: the first, the last of its step?
    void begin_micro_step(bool first, bool last) { first_micro_step_ = first, last_micro_step_ = last; }
    bool last_micro_step() const { return last_micro_step_; }

    // Before bucket b's gradients are computed. They add up over micro-steps, in the arena (stages 0 and 1) or in the
    // owner's part of their sums. Those of the matrices, nearly all of them, are not cleared first but overwritten,
    // which saves writing and reading them once (add_gradients).
    void begin_gradients(int b) {
        int slot = memory_.shards.slot(b);
        gradients_.need_room(slot);  // for the bucket that lay here before
        fetch_sums(b), gradients_.need(slot), fetch_sums(b - 1);
        if (add_gradients()) return;
        // Tensors to clear lie side by side between the matrices: one call for each row of them.
        Bucket bucket = memory_.shards.bucket(b);
        if (bucket.rows == 0) return;
        const Parameter* rows = &memory_.table[bucket.first_row];
        auto cleared = [&](size_t row) { return !rows[row].by_product; };
        for (size_t row = 0; row < bucket.rows; row++) {
            if (!cleared(row)) continue;
            size_t last = row;
            const auto whole = [&](size_t which) { return rows[which].rows_in_use == rows[which].rows; };
            while (whole(last) && last + 1 < bucket.rows && cleared(last + 1)) last++;
            int64_t end = rows[last].offset + (whole(last) ? rows[last].padded_size() : rows[last].size_in_use());
            machine_.clear(memory_.gradient_of(rows[row]), end - rows[row].offset);
            row = last;
        }
    }
    // Whether a matrix product adds to its gradient or overwrites it.
    bool add_gradients() const { return memory_.stage < 2 && !first_micro_step_; }

    // When bucket b's gradients of a micro-step are complete: they are summed over ranks while the backward pass goes
    // on. Stages 0 and 1 send them once a step, 2 and 3 after each micro-step.
    void reduce_gradients(int b) {
        if (memory_.away.gradients && (is_block(b) || last_micro_step_))
            gradients_.put_away(memory_.shards.slot(b), [&] {
                machine_.put_away(memory_.own_grads + memory_.shards.local(b),
                                  memory_.grad_slots[memory_.shards.slot(b)], memory_.shards.bucket(b).size);
            });
        if (memory_.world == 1 || (memory_.stage < 2 && !last_micro_step_)) return;
        Bucket bucket = memory_.shards.bucket(b);
        if (bucket.rows == 0) return;
        size_t n = static_cast<size_t>(memory_.shards.part(b));
        G *here = memory_.bucket_gradients(b), *own = memory_.summed_gradients(b);
        auto& network = machine_.network();
        const auto to_owners = [&] {
            comm_->reduce_scatter(memory_.received, here, n, network);
            add_to(own, memory_.received, memory_.shards.part(b), network);
        };
        if (memory_.stage >= 2 && !memory_.fused)
            return gradients_.put_away(memory_.shards.slot(b), to_owners, Lane::network);
        machine_.follow_computation();
        if (memory_.stage == 0) comm_->all_reduce(here, static_cast<size_t>(bucket.size), network);
        else comm_->reduce_scatter(own, here, n, network);
        if (memory_.fused) machine_.join();
    }
    // The layers wait for all that travels. (A captured graph must end with all its work in one stream.)
    void join() {
        if (memory_.away.any()) machine_.join(Lane::in), machine_.join(Lane::out);
        if (memory_.world > 1) machine_.join();
        weights_.forget(), gradients_.forget(), std::fill_n(sums_here_, Sharding::kSlots, -1);
    }

    // ---- the update ----

    // The sum of losses (n, or 0: that is done) is over all ranks. At stage 0 every rank has the whole gradient and so its norm;
    // else the norm's square is summed over the parts.
    void sum_losses_and_norm(double* sums, int n, double* norm_squared) {
        if (memory_.world == 1) return;
        machine_.follow_computation();
        if (n > 0) comm_->all_reduce(sums, static_cast<size_t>(n), machine_.network());
        if (memory_.stage > 0) comm_->all_reduce(norm_squared, 1, machine_.network());
        machine_.join();
    }
    // Bucket b's summed gradients, or what Muon has made of them, whole (stages 1 to 3), where its gradients are computed; and
    // the sum of what ranks have in it back to the owners of its elements.
    G* gather_gradients(int b) {
        G* whole = memory_.bucket_gradients(b);
        machine_.follow_computation();
        comm_->all_gather(whole, memory_.summed_gradients(b), static_cast<size_t>(memory_.shards.part(b)),
                          machine_.network());
        machine_.join();
        return whole;
    }
    void return_gradients(int b, const G* whole) {
        machine_.follow_computation();
        comm_->reduce_scatter(memory_.summed_gradients(b), whole, static_cast<size_t>(memory_.shards.part(b)),
                              machine_.network());
        machine_.join();
    }
    // Each rank has updated its part: the weights come together again (stages 1 and 2).
    void gather_weights() {
        if (memory_.stage == 0 || memory_.stage == 3) return;
        const Sharding& shards = memory_.shards;
        machine_.follow_computation();
        for (int b = 0; b < shards.buckets(); b++)
            if (shards.bucket(b).rows > 0)
                comm_->all_gather(memory_.weights + shards.bucket(b).begin, memory_.weights + shards.begin(b),
                                  static_cast<size_t>(shards.part(b)), machine_.network());
        machine_.join();
    }

    // ---- files: where a rank has not everything, all read a tensor together, and each gives what it has; each writes
    // what it keeps ----

    bool collective() const { return memory_.shards.world() > 1; }

    // Elements [offset, offset + n) of the arena.
    void read(Buffer buffer, int64_t offset, int64_t n, float* out) {
        const Sharding& shards = memory_.shards;
        if (shards.world() == 1 || (buffer == Buffer::weights && memory_.weights)) {
            return copy_own(out, buffer, offset, offset, n);
        }
        for (int r = 0; r < shards.world(); r++)
            shards.for_owned(r, offset, n, [&](int64_t arena, int64_t local, int64_t count) {
                std::vector<float> values(static_cast<size_t>(count));
                if (r == memory_.rank) copy_own(values.data(), buffer, arena, local, count);
                machine_.broadcast(*comm_, values, r);
                std::copy(values.begin(), values.end(), out + arena - offset);
            });
    }
    void write(Buffer buffer, int64_t offset, int64_t n, const float* in) {
        forget_weights();
        if (buffer == Buffer::weights && memory_.weights) return machine_.upload(memory_.weights + offset, in, n);
        memory_.shards.for_own(offset, n, [&](int64_t arena, int64_t local, int64_t count) {
            const float* from = in + arena - offset;
            if (buffer == Buffer::weights) machine_.upload(memory_.weight_part + local, from, count);
            else if (buffer == Buffer::master) machine_.upload(memory_.master + local, from, count);
            else upload_moment(moment(buffer, arena, local), from, count);
        });
    }

  private:
    // A block's gradients of the micro-steps before, where they are offloaded. (Those of other buckets stay in their slots.)
    bool is_block(int b) const { return b > 0 && b < memory_.shards.buckets() - 1; }
    void fetch_sums(int b) {
        const int slot = memory_.shards.slot(b);
        if (!memory_.away.gradients || first_micro_step_ || !is_block(b) || sums_here_[slot] == b) return;
        sums_here_[slot] = b;
        gradients_.fetch(slot, [&] {
            machine_.bring(memory_.grad_slots[slot], memory_.own_grads + memory_.shards.local(b),
                           memory_.shards.bucket(b).size);
        });
    }
    // n elements of the local arena, or weights anywhere in the whole one.
    void copy_own(float* to, Buffer buffer, int64_t arena, int64_t local, int64_t n) {
        const size_t count = static_cast<size_t>(n);
        if (buffer == Buffer::weights) machine_.copy_beside(to, memory_.own_weight(arena, local), count);
        else if (buffer == Buffer::master) machine_.copy_beside(to, memory_.master + local, count);
        else copy_moment(to, moment(buffer, arena, local), arena % kMomentBlock, count);
    }
    // Of element `local` of the local arena; of int8 that of the block which it is in.
    Moment moment(Buffer buffer, int64_t arena, int64_t local) const {
        const int64_t within = memory_.state_type == StateType::int8 ? arena % kMomentBlock : 0;
        return memory_.moment(buffer, memory_.row_of(arena), local - within);
    }
    void copy_moment(float* to, const Moment& from, int64_t first, size_t n) {
        if (memory_.state_type == StateType::fp32) return machine_.copy_beside(to, from.template as<A>(), n);
        if (memory_.state_type == StateType::bf16) return machine_.copy_beside(to, from.template as<bf16>(), n);
        const size_t blocks = (static_cast<size_t>(first) + n + kMomentBlock - 1) / kMomentBlock;
        HostMoments host(blocks, from.has_sign);
        machine_.copy_beside(host.codes.data(), from.template as<int8_t>(), host.codes.size());
        machine_.copy_beside(host.scales.data(), from.scales, blocks);
        host.unpack(to, first, static_cast<int64_t>(n));
    }
    void upload_moment(const Moment& to, const float* from, int64_t n) {
        if (memory_.state_type == StateType::fp32) return machine_.upload(to.template as<A>(), from, n);
        if (memory_.state_type == StateType::bf16) return machine_.upload(to.template as<bf16>(), from, n);
        const int64_t blocks = (n + kMomentBlock - 1) / kMomentBlock;
        HostMoments host(static_cast<size_t>(blocks), to.has_sign);
        host.pack(from, n);
        machine_.upload(to.template as<int8_t>(), host.codes.data(), n);
        machine_.upload(to.scales, host.scales.data(), blocks);
    }

    Machine& machine_;
    const ModelMemory<X, typename Machine::Arena>& memory_;
    Communicator* comm_ = nullptr;
    bool first_micro_step_ = true, last_micro_step_ = true;
    // Of each slot (zero.h): the bucket whose weights it holds, and that whose sums of gradients came from the host
    int resident_[Sharding::kSlots] = {-1, -1, -1, -1}, sums_here_[Sharding::kSlots] = {-1, -1, -1, -1};
    Turns<Machine, Sharding::kSlots> weights_, gradients_;  // slots
};
