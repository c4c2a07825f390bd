// Cuts linear attention into tasks: over sequences, and over values where there are too few.
#include <algorithm>
#include <memory>
#include <new>

#include "linear_attention.h"
#include "linear_attention_loops.h"

namespace fastscan::attention {
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

// Below this many updates of an element of a state, one thread is done about when another would
// have started.
constexpr int64_t kSerialUpdates = 1 << 18;
// Tasks for each thread, to even out their speeds.
constexpr int64_t kTasksPerThread = 4;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Uninitialised memory, aligned for registers not to straddle cache lines.
constexpr std::align_val_t kAlignment{64};
struct Release {
  void operator()(char* p) const { ::operator delete[](p, kAlignment); }
};
using Memory = std::unique_ptr<char[], Release>;
Memory Allocate(int64_t bytes) {
  return Memory(static_cast<char*>(::operator new[](bytes, kAlignment)));
}

// What the two jobs have in common: which sequences, and which values of them, a task takes.
class AttentionJob : public Job {
 protected:
  AttentionJob(Dtype dtype, const Shape& shape, const Operands& in, int64_t threads)
      : loops_(LoopsOf(dtype)), shape_(shape), in_(in) {
    for (int i = 0; i < shape.rank; ++i) sequences_ *= shape.batch[i];
    const int64_t updates = sequences_ * shape.steps * shape.keys * shape.values;
    if (sequences_ == 0) return;
    if (updates < kSerialUpdates) threads = 1;
    const int64_t units = CeilDiv(shape.values, loops_.lanes);
    const int64_t wanted = std::min(units, CeilDiv(threads, sequences_));
    part_values_ = CeilDiv(units, wanted) * loops_.lanes;
    parts_ = CeilDiv(shape.values, part_values_);
    const int64_t groups = threads == 1 ? 1 : std::min(sequences_, threads * kTasksPerThread);
    sequences_per_task_ = CeilDiv(sequences_, groups);
    tasks_ = CeilDiv(sequences_, sequences_per_task_) * parts_;
  }

  // Calls body(sequence, part, its first value, its end) for what the task takes.
  template <class Body>
  void ForEach(int64_t task, const Body& body) {
    const int64_t part = task % parts_, first = task / parts_ * sequences_per_task_;
    const int64_t begin = part * part_values_;
    const int64_t end = std::min(begin + part_values_, shape_.values);
    for (int64_t i = first; i < std::min(first + sequences_per_task_, sequences_); ++i) {
      body(i, part, begin, end);
    }
  }

  // Where the elements of a sequence begin, of which it has `count` of `bytes`.
  char* At(const Array& array, int64_t sequence, int64_t count, int64_t bytes) const {
    if (array.data == nullptr) return nullptr;
    int64_t offset = 0, step = 1;
    for (int i = shape_.rank - 1; i >= 0; --i) {
      if (array.dims[i] != 1) offset += sequence % shape_.batch[i] * step;
      step *= array.dims[i];
      sequence /= shape_.batch[i];
    }
    return static_cast<char*>(array.data) + offset * count * bytes;
  }
  char* At(const Array& array, int64_t sequence, int64_t count) const {
    return At(array, sequence, count, loops_.bytes);
  }

  Sequence SequenceAt(int64_t i) const {
    const int64_t steps = shape_.steps;
    return {At(in_.q, i, keyed()),
            At(in_.k, i, keyed()),
            At(in_.v, i, valued()),
            At(in_.decay, i, decays()),
            At(in_.beta, i, steps),
            reinterpret_cast<const uint8_t*>(At(in_.reset, i, steps, 1)),
            steps,
            shape_.keys,
            shape_.values,
            shape_.decays};
  }

  int64_t keyed() const { return shape_.steps * shape_.keys; }
  int64_t valued() const { return shape_.steps * shape_.values; }
  int64_t decays() const { return shape_.steps * shape_.decays; }
  int64_t state() const { return shape_.keys * shape_.values; }
  int64_t starts() const { return CeilDiv(shape_.steps, kChunk) * state(); }

  const Loops& loops_;
  const Shape shape_;
  const Operands in_;
  int64_t sequences_ = 1, sequences_per_task_ = 1;
  int64_t parts_ = 1, part_values_ = 1;
};

class ForwardJob : public AttentionJob {
 public:
  ForwardJob(const Forward& forward, int64_t threads)
      : AttentionJob(forward.dtype, forward.shape, forward.in, threads), forward_(forward) {}

  void Run(int64_t task) override {
    const Memory scratch = Allocate(loops_.forward_scratch(shape_.keys, part_values_));
    ForEach(task, [&](int64_t i, int64_t, int64_t begin, int64_t end) {
      loops_.forward({SequenceAt(i), At(forward_.S0, i, state()), At(forward_.S_last, i, state()),
                      At(forward_.y, i, valued()), At(forward_.starts, i, starts()), begin, end,
                      scratch.get()});
    });
  }

 private:
  const Forward forward_;
};

class BackwardJob : public AttentionJob {
 public:
  BackwardJob(const Backward& backward, int64_t threads)
      : AttentionJob(backward.dtype, backward.shape, backward.in, threads),
        backward_(backward),
        sums_{backward.dq, backward.dk, backward.dlog_decay, backward.dbeta},
        counts_{keyed(), keyed(), decays(), shape_.steps} {
    for (int s = 0; s < kSums; ++s) {
      if (sums_[s].data != nullptr) part_bytes_ += sequences_ * counts_[s] * loops_.bytes;
    }
    workspace_ = Allocate((parts_ - 1) * part_bytes_);
  }

  void Run(int64_t task) override {
    const Memory scratch = Allocate(loops_.backward_scratch(shape_.keys, part_values_));
    ForEach(task, [&](int64_t i, int64_t part, int64_t begin, int64_t end) {
      loops_.backward({SequenceAt(i), At(backward_.starts, i, starts()),
                       At(backward_.g_last, i, state()), At(backward_.g, i, valued()),
                       Sum(0, part, i), Sum(1, part, i), At(backward_.dv, i, valued()),
                       Sum(2, part, i), Sum(3, part, i), At(backward_.dS0, i, state()), begin, end,
                       scratch.get()});
    });
  }

  void Finish() override {
    for (int64_t part = 1; part < parts_; ++part) {
      for (int s = 0; s < kSums; ++s) {
        if (sums_[s].data == nullptr) continue;
        loops_.add(Sum(s, 0, 0), Sum(s, part, 0), sequences_ * counts_[s]);
      }
    }
  }

 private:
  static constexpr int kSums = 4;

  // Where a part of a sequence's values leaves its share of a cotangent that they have in common:
  // the first in the result, the others in arrays of their own, which Finish adds in their order.
  char* Sum(int s, int64_t part, int64_t sequence) const {
    if (sums_[s].data == nullptr || part == 0) return At(sums_[s], sequence, counts_[s]);
    char* base = workspace_.get() + (part - 1) * part_bytes_;
    for (int before = 0; before < s; ++before) {
      if (sums_[before].data != nullptr) base += sequences_ * counts_[before] * loops_.bytes;
    }
    return base + sequence * counts_[s] * loops_.bytes;
  }

  const Backward backward_;
  const Array sums_[kSums];
  const int64_t counts_[kSums];
  int64_t part_bytes_ = 0;
  Memory workspace_;
};

}  // namespace

std::unique_ptr<Job> MakeJob(const Forward& forward, int64_t threads) {
  return std::make_unique<ForwardJob>(forward, threads);
}

std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads) {
  return std::make_unique<BackwardJob>(backward, threads);
}

}  // namespace fastscan::attention
