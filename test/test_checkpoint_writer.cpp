// When the model is read for a checkpoint that is written beside training, and what is on disk then.
#include "llmc/files/checkpoint_writer.h"

#include <gtest/gtest.h>
#include <atomic>
#include <future>
#include <thread>

#include "test/fake_model.h"

namespace {

const ModelConfig kSmall{2, 2, 12, 7, 131};

class Writer : public testing::Test {
  protected:
    Writer() {
        model.fill(1);
        expected.fill(1);
        auto read = model.tensors.read;
        model.tensors.read = [this, read](Buffer b, int64_t offset, int64_t n, float* out) {
            may_read.wait();
            reader = std::this_thread::get_id(), reads++;
            read(b, offset, n, out);
        };
        state.step = 1;
    }
    // What is on disk is what the model was when the checkpoint began.
    void expect_as_it_was(const std::optional<CheckpointWriter::Outcome>& outcome) {
        ASSERT_TRUE(outcome);
        ASSERT_EQ(outcome->error, "");
        FakeModel back(kSmall, false, false);
        load_training_state(outcome->path, kSmall, back.tensors);
        for (size_t k : {0, 2, 3}) EXPECT_EQ(back.buffers[k], expected.buffers[k]);
    }
    void allow() { gate.set_value(); }

    TemporaryDirectory dir;
    FakeModel model{kSmall, false, false}, expected{kSmall, false, false};
    TrainerState state;
    std::promise<void> gate;
    std::shared_future<void> may_read = gate.get_future().share();
    std::atomic<int> reads = 0;
    std::thread::id reader;
    CheckpointWriter writer{dir / "out", kSmall, nullptr, nullptr, 0, 0};
};

TEST_F(Writer, AThreadReadsUntilTheUpdate) {
    model.tensors.read_by_thread = true;
    writer.begin(model.tensors, state);  // would never return if it read
    EXPECT_FALSE(writer.poll());
    allow();
    writer.finish_copy();
    EXPECT_NE(reader, std::this_thread::get_id());
    model.fill(2);  // the update
    expect_as_it_was(writer.wait());
    EXPECT_FALSE(writer.wait());
}

TEST_F(Writer, TheHostReadsBeforeTheUpdate) {
    allow();
    writer.begin(model.tensors, state);
    EXPECT_EQ(reads, 0);
    writer.finish_copy();
    EXPECT_EQ(reader, std::this_thread::get_id());
    model.fill(2);
    expect_as_it_was(writer.wait());
}

TEST_F(Writer, RanksReadTogetherAtOnce) {
    allow();
    model.tensors.collective = model.tensors.read_by_thread = true;
    writer.begin(model.tensors, state);
    EXPECT_EQ(reader, std::this_thread::get_id());
    model.fill(2);
    expect_as_it_was(writer.wait());
}

TEST_F(Writer, WaitingFinishesTheCopy) {
    allow();
    writer.begin(model.tensors, state);
    expect_as_it_was(writer.wait());
}

}  // namespace
