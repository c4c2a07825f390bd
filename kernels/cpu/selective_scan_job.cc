// Cuts a selective scan into tasks: over batch entries, and over channels where there are too few of
// these.
#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "selective_scan.h"
#include "selective_scan_loops.h"

namespace fastscan::selective {

namespace {

const Loops& LoopsOf(Dtype dtype) {
#if defined(FASTSCAN_HAVE_AVX512)
  if (ChosenIsa() == Isa::kAvx512) return avx512::LoopsOf(dtype);
#endif
#if defined(FASTSCAN_HAVE_AVX2)
  if (ChosenIsa() == Isa::kAvx2) return avx2::LoopsOf(dtype);
#endif
  return baseline::LoopsOf(dtype);
}

// Below this many exponentials one thread is done about when another would have started.
constexpr int64_t kSerialWork = 1 << 14;

// Tasks for each thread, to even out their speeds. Backward, each has sums of its own to add up.
constexpr int64_t kForwardTasks = 4;
constexpr int64_t kBackwardTasks = 2;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// An array, and how many elements of `bytes` each it has for a batch entry.
struct Operand {
  char* data;
  int64_t entry_bytes;
  std::vector<int64_t> dims;  // of the batch axes
};

class EntryJob : public Job {
 public:
  EntryJob(const Extents& extents, int64_t threads, int64_t tasks_per_thread)
      : extents_(extents),
        loops_(LoopsOf(extents.dtype)),
        batch_(extents.batch, extents.batch + extents.batch_rank) {
    for (const int64_t n : batch_) entries_ *= n;
    const int64_t work = extents.steps * extents.channels * extents.states;
    const int64_t blocks = CeilDiv(extents.channels, loops_.lanes);
    const bool alone = threads <= 1 || entries_ * work < kSerialWork || entries_ == 0;
    const int64_t tasks = threads * tasks_per_thread;
    const int64_t groups = alone ? 1 : CeilDiv(tasks, std::min(entries_, tasks));
    const int64_t blocks_per_group = CeilDiv(blocks, std::max<int64_t>(1, std::min(groups, blocks)));
    group_channels_ = std::max<int64_t>(blocks_per_group, 1) * loops_.lanes;
    groups_ = std::max<int64_t>(CeilDiv(extents.channels, group_channels_), 1);
    tasks_ = entries_ * groups_;
  }

 protected:
  int64_t inputs() const { return extents_.steps * extents_.channels * loops_.input_bytes; }
  int64_t outputs() const { return extents_.steps * extents_.channels * loops_.element_bytes; }
  int64_t matrices() const { return extents_.steps * extents_.states * loops_.element_bytes; }
  int64_t skips() const { return extents_.channels * loops_.scalar_bytes; }
  int64_t all_states() const {
    return extents_.channels * extents_.states * loops_.state_bytes;
  }
  int64_t all_starts() const { return CeilDiv(extents_.steps, extents_.chunk) * all_states(); }

  Operand Of(const Array& array, int64_t entry_bytes) const {
    Operand operand{static_cast<char*>(array.data), entry_bytes, {}};
    if (array.data != nullptr) operand.dims.assign(array.dims, array.dims + batch_.size());
    return operand;
  }

  // Where a batch entry's part of an operand begins; null where it is left out.
  char* At(const Operand& operand, int64_t entry) const {
    if (operand.data == nullptr) return nullptr;
    int64_t index = 0, step = 1;
    for (int i = static_cast<int>(batch_.size()) - 1; i >= 0; --i) {
      if (operand.dims[i] != 1) index += entry % batch_[i] * step;
      step *= operand.dims[i];
      entry /= batch_[i];
    }
    return operand.data + index * operand.entry_bytes;
  }

  // Hands over memory that begins with a cache line: a register that lies
  // across two of them is read and written at half the speed.
  template <class Run>
  static void WithWorkspace(int64_t bytes, const Run& run) {
    constexpr uintptr_t kLine = 64;
    const std::unique_ptr<char[]> memory(new char[bytes + kLine]);
    const auto at = reinterpret_cast<uintptr_t>(memory.get());
    run(memory.get() + (kLine - at % kLine) % kLine);
  }

  int64_t Begin(int64_t task) const { return task % groups_ * group_channels_; }
  int64_t End(int64_t task) const {
    return std::min(Begin(task) + group_channels_, extents_.channels);
  }

  Extents extents_;
  const Loops& loops_;
  std::vector<int64_t> batch_;
  int64_t entries_ = 1, groups_ = 1, group_channels_ = 1;
};

class ForwardJob : public EntryJob {
 public:
  ForwardJob(const Scan& scan, int64_t threads)
      : EntryJob(scan.extents, threads, kForwardTasks),
        u_(Of(scan.u, inputs())),
        dt_(Of(scan.dt, inputs())),
        a_(Of(scan.a, all_states())),
        b_(Of(scan.b, matrices())),
        c_(Of(scan.c, matrices())),
        d_(Of(scan.d, skips())),
        h0_(Of(scan.h0, all_states())),
        reset_(Of(scan.reset, extents_.steps)),
        h_last_(Of(scan.h_last, all_states())),
        y_(Of(scan.y, outputs())),
        starts_(Of(scan.starts, all_starts())) {}

  void Run(int64_t task) override {
    const int64_t entry = task / groups_;
    const ForwardEntry arrays{At(u_, entry),
                              At(dt_, entry),
                              At(a_, entry),
                              At(b_, entry),
                              At(c_, entry),
                              At(d_, entry),
                              At(h0_, entry),
                              reinterpret_cast<const uint8_t*>(At(reset_, entry)),
                              At(h_last_, entry),
                              At(y_, entry),
                              At(starts_, entry)};
    WithWorkspace(loops_.forward_bytes(extents_, group_channels_), [&](void* workspace) {
      loops_.forward(extents_, arrays, Begin(task), End(task), workspace);
    });
  }

 private:
  const Operand u_, dt_, a_, b_, c_, d_, h0_, reset_, h_last_, y_, starts_;
};

class BackwardJob : public EntryJob {
 public:
  BackwardJob(const Backward& backward, int64_t threads)
      : EntryJob(backward.extents, threads, kBackwardTasks),
        g_last_(Of(backward.g_last, all_states())),
        g_y_(Of(backward.g_y, outputs())),
        u_(Of(backward.u, inputs())),
        dt_(Of(backward.dt, inputs())),
        a_(Of(backward.a, all_states())),
        b_(Of(backward.b, matrices())),
        c_(Of(backward.c, matrices())),
        d_(Of(backward.d, skips())),
        reset_(Of(backward.reset, extents_.steps)),
        starts_(Of(backward.starts, all_starts())),
        du_(Of(backward.du, inputs())),
        ddt_(Of(backward.ddt, inputs())),
        da_(Of(backward.da, all_states())),
        db_(Of(backward.db, matrices())),
        dc_(Of(backward.dc, matrices())),
        dd_(Of(backward.dd, skips())),
        dh0_(Of(backward.dh0, all_states())) {
    // Groups of channels share b and c: each has its own sums.
    if (groups_ > 1) partial_.reset(new char[2 * tasks_ * partial_bytes()]);
  }

  void Run(int64_t task) override {
    const int64_t entry = task / groups_;
    BackwardEntry arrays{At(g_last_, entry),
                         At(g_y_, entry),
                         At(u_, entry),
                         At(dt_, entry),
                         At(a_, entry),
                         At(b_, entry),
                         At(c_, entry),
                         At(d_, entry),
                         reinterpret_cast<const uint8_t*>(At(reset_, entry)),
                         At(starts_, entry),
                         At(du_, entry),
                         At(ddt_, entry),
                         At(da_, entry),
                         At(dd_, entry),
                         At(dh0_, entry),
                         At(db_, entry),
                         At(dc_, entry),
                         groups_ > 1};
    if (groups_ > 1) {
      arrays.db = partial_.get() + task * partial_bytes();
      arrays.dc = partial_.get() + (tasks_ + task) * partial_bytes();
    }
    WithWorkspace(loops_.backward_bytes(extents_, group_channels_), [&](void* workspace) {
      loops_.backward(extents_, arrays, Begin(task), End(task), workspace);
    });
  }

  void Finish() override {
    if (groups_ == 1) return;
    const int64_t count = extents_.steps * extents_.states;
    for (int64_t entry = 0; entry < entries_; ++entry) {
      const char* db = partial_.get() + entry * groups_ * partial_bytes();
      loops_.reduce(At(db_, entry), db, count, groups_);
      loops_.reduce(At(dc_, entry), db + tasks_ * partial_bytes(), count, groups_);
    }
  }

 private:
  int64_t partial_bytes() const { return extents_.steps * extents_.states * loops_.state_bytes; }

  const Operand g_last_, g_y_, u_, dt_, a_, b_, c_, d_, reset_, starts_;
  const Operand du_, ddt_, da_, db_, dc_, dd_, dh0_;
  std::unique_ptr<char[]> partial_;
};

}  // namespace

std::unique_ptr<Job> MakeJob(const Scan& scan, int64_t threads) {
  return std::make_unique<ForwardJob>(scan, threads);
}

std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads) {
  return std::make_unique<BackwardJob>(backward, threads);
}

void Exponentials(Dtype dtype, const void* dt, const void* a, bool care, bool zoh, void* e,
                  int64_t count) {
  LoopsOf(dtype).exponentials(dt, a, care, zoh, e, count);
}

}  // namespace fastscan::selective
