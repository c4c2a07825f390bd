// Cuts a linear scan into tasks: over rows, over channels where there are too few rows, and over
// time where there are too few of both.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "layout.h"
#include "linear_scan.h"
#include "linear_scan_loops.h"

namespace fastscan {

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

// Below this many bytes per array one thread is done about when another would have started.
constexpr int64_t kSerialBytes = 1 << 19;
// Time is split among this many threads or more: it takes a second pass, over inputs of which one
// thread can read about as much as two can, and only where the arrays are larger than this.
constexpr int64_t kSplitThreads = 4;
constexpr int64_t kSplitBytes = 1 << 20;
// A piece of time: its inputs are read twice, the second time from the core's own cache.
constexpr int64_t kPieceBytes = 1 << 17;
// Channels are split where the parts are this wide, else memory sees streams full of gaps.
constexpr int64_t kChunkBytes = 1 << 15;
// Rows that are run at once, at most.
constexpr int64_t kMostTogether = 64;
// Tasks for each thread, to even out their speeds.
constexpr int64_t kTasksPerThread = 4;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How rows and channels are cut into tasks.
struct Cut {
  int64_t rows_per_task;
  int64_t lanes_per_task;
  int64_t lane_tasks;
  bool split_time;
};

// `together` rows are run at once.
Cut CutWork(const Layout& layout, int64_t element_bytes, int64_t together, int64_t threads) {
  const int64_t rows = std::max<int64_t>(layout.rows, 1);
  const int64_t lanes = std::max<int64_t>(layout.lanes.extent, 1);
  const int64_t row_bytes = layout.time.extent * lanes * element_bytes;
  const int64_t bytes = rows * row_bytes;
  if (threads <= 1 || bytes < kSerialBytes) return {rows, lanes, 1, false};

  if (rows >= threads) {
    const bool gaps = together > 1 && lanes * element_bytes >= kNarrowBytes;
    const int64_t wanted = gaps ? threads : std::min(rows, threads * kTasksPerThread);
    const int64_t at_least = CeilDiv(kSerialBytes / 4, std::max<int64_t>(row_bytes, 1));
    const int64_t per_task = std::max(rows / wanted, std::min(at_least, rows / threads));
    return {per_task < together ? per_task : per_task / together * together, lanes, 1, false};
  }
  const int64_t unit = kChunkBytes / element_bytes;
  const int64_t lane_tasks = std::min(lanes / unit, CeilDiv(threads, rows));
  if (rows * lane_tasks >= threads) {
    const int64_t per_task = CeilDiv(CeilDiv(lanes, lane_tasks), unit) * unit;
    return {1, per_task, CeilDiv(lanes, per_task), false};
  }
  return {1, lanes, 1, threads >= kSplitThreads && bytes >= kSplitBytes};
}

// The states that pieces of time hand on: piece i waits for the state that piece i - 1 publishes.
// Pieces are claimed in order, so the one that is waited for has always started.
class Chain {
 public:
  Chain(int64_t pieces, int64_t state_bytes)
      : state_bytes_(state_bytes), states_(pieces * state_bytes), ready_(pieces) {}

  char* state(int64_t piece) { return states_.data() + piece * state_bytes_; }
  void Publish(int64_t piece) { ready_[piece].store(true, std::memory_order_release); }
  const char* Wait(int64_t piece) {
    for (int spins = 0; !ready_[piece].load(std::memory_order_acquire); ++spins) {
      if (spins > 64) std::this_thread::yield();
    }
    return state(piece);
  }

 private:
  int64_t state_bytes_;
  std::vector<char> states_;
  std::vector<std::atomic<bool>> ready_;
};

const char kNoReset = 0;

enum class Kind { kElement, kState, kFlag };

struct Operand {
  Array array;
  Kind kind = Kind::kElement;
};

// What the two jobs have in common: the operands and how to find a row in them.
class RowJob : public Job {
 protected:
  using Offsets = std::array<int64_t, kMaxOperands>;

  using Operands = std::array<Operand, kMaxOperands>;

  RowJob(Dtype dtype, const Shape& shape, bool reverse, const Operands& operands, int count)
      : loops_(LoopsOf(dtype)),
        reverse_(reverse),
        operands_(operands),
        layout_(shape, Arrays(operands).data(), count) {}

  int64_t steps() const { return layout_.time.extent; }
  int64_t lanes() const { return layout_.lanes.extent; }
  bool narrow() const { return lanes() * loops_.element_bytes < kNarrowBytes; }

  // How many rows to run at once: narrow ones, to overlap, or those that lie between the steps of
  // each other in the result `o`.
  int64_t Together(int o) const {
    if (narrow()) return kOverlap;
    const int64_t gap = layout_.time.stride[o] / std::max<int64_t>(lanes(), 1);
    return std::min(std::max<int64_t>(gap, 1), kMostTogether);
  }

  bool has(int o) const { return operands_[o].array.data != nullptr; }

  int64_t bytes(int o) const {
    const Kind kind = operands_[o].kind;
    return kind == Kind::kState ? loops_.state_bytes
           : kind == Kind::kFlag ? 1
                                 : loops_.element_bytes;
  }

  // Operand `o` from step `begin`, in the order of the scan, and channel `lane` of a row. What was
  // left out reads as a flag that is never set.
  Stream At(int o, const Offsets& offsets, int64_t lane, int64_t begin) const {
    if (!has(o)) return {const_cast<char*>(&kNoReset), 0, 0};
    return At(o, static_cast<char*>(operands_[o].array.data), bytes(o), offsets, lane, begin);
  }

  // The same in another array that lies as operand `o` does.
  Stream At(int o, char* data, int64_t element_bytes, const Offsets& offsets, int64_t lane,
            int64_t begin) const {
    const int64_t stride = layout_.time.stride[o], lane_stride = layout_.lanes.stride[o];
    const int64_t step = reverse_ ? -stride : stride;
    const int64_t first = reverse_ ? (steps() - 1) * stride : 0;
    const int64_t offset = offsets[o] + first + begin * step + lane * lane_stride;
    return {data + offset * element_bytes, step, lane_stride};
  }

  // The states of operand `o`, which may be broadcast over the channels, to where they lie densely.
  void CopyState(void* to, int o, const Offsets& offsets, int64_t lane, int64_t count) const {
    const int64_t size = loops_.state_bytes;
    const Stream from = At(o, offsets, lane, 0);
    if (from.lane == 1) {
      std::memcpy(to, from.data, count * size);
    } else {
      for (int64_t i = 0; i < count; ++i) {
        std::memcpy(static_cast<char*>(to) + i * size, from.data, size);
      }
    }
  }

  // Rounded to whole groups of overlapping parts.
  int64_t PieceSteps() const {
    const int64_t step_bytes = lanes() * loops_.element_bytes;
    return std::max<int64_t>(kPieceBytes / step_bytes / kOverlap, 1) * kOverlap;
  }

  const Loops& loops_;
  const bool reverse_;
  Operands operands_;
  Layout layout_;

 private:
  static std::array<const Array*, kMaxOperands> Arrays(const Operands& operands) {
    std::array<const Array*, kMaxOperands> arrays;
    for (int o = 0; o < kMaxOperands; ++o) arrays[o] = &operands[o].array;
    return arrays;
  }
};

// The summaries of the parts of a piece of time. A narrow piece has kOverlap equal parts, whose
// chains of operations overlap, and what is left over; any other piece is one part.
class Parts {
 public:
  Parts(int64_t steps, int64_t lanes, bool narrow, const Loops& loops)
      : product_bytes_(lanes * loops.product_bytes), state_bytes_(lanes * loops.state_bytes) {
    const int64_t part = narrow ? steps / kOverlap : 0;
    if (part > 0) starts_.assign(kOverlap, 0);
    for (size_t i = 0; i < starts_.size(); ++i) starts_[i] = static_cast<int64_t>(i) * part;
    equal_ = static_cast<int>(starts_.size());
    if (part * kOverlap < steps) starts_.push_back(part * kOverlap);
    starts_.push_back(steps);
    storage_.resize(count() * part_bytes());
    cuts_.resize(count() * lanes);
    rows_.resize(count());
    for (int i = 0; i < count(); ++i) {
      rows_[i].product = storage_.data() + i * part_bytes();
      rows_[i].state = storage_.data() + i * part_bytes() + product_bytes_;
      rows_[i].cut = cuts_.data() + i * lanes;
      rows_[i].steps = starts_[i + 1] - starts_[i];
      rows_[i].lanes = lanes;
    }
  }

  int count() const { return static_cast<int>(starts_.size()) - 1; }
  int equal() const { return equal_; }
  int64_t start(int i) const { return starts_[i]; }
  SummaryRow& row(int i) { return rows_[i]; }
  // A state of the caller's, one for each part.
  char* carry(int i) {
    return storage_.data() + i * part_bytes() + product_bytes_ + state_bytes_;
  }

  void Summarize(const Loops& loops, bool adjoint) {
    if (equal_ > 0) loops.summarize(rows_.data(), equal_, adjoint);
    if (equal_ < count()) loops.summarize(&rows_[equal_], 1, adjoint);
  }

 private:
  int64_t part_bytes() const { return product_bytes_ + 2 * state_bytes_; }

  const int64_t product_bytes_, state_bytes_;  // of all lanes
  std::vector<int64_t> starts_;
  int equal_;
  std::vector<char> storage_;
  std::vector<uint8_t> cuts_;
  std::vector<SummaryRow> rows_;
};

// ---- forward ---------------------------------------------------------------------------------

class ForwardJob : public RowJob {
 public:
  ForwardJob(const Scan& scan, int64_t threads)
      : RowJob(scan.dtype, scan.shape, scan.reverse,
               {{{scan.a},
                 {scan.x},
                 {scan.h0, Kind::kState},
                 {scan.reset, Kind::kFlag},
                 {scan.h_last, Kind::kState},
                 {scan.h}}},
               6),
        together_(Together(kH)),
        cut_(CutWork(layout_, loops_.element_bytes, together_, threads)) {
    if (cut_.split_time) {
      piece_steps_ = PieceSteps();
      pieces_ = CeilDiv(steps(), piece_steps_);
      chain_ = std::make_unique<Chain>(layout_.rows * pieces_, lanes() * loops_.state_bytes);
      tasks_ = layout_.rows * pieces_;
    } else if (lanes() > 0) {
      tasks_ = CeilDiv(layout_.rows, cut_.rows_per_task) * cut_.lane_tasks;
    }
  }

  void Run(int64_t task) override { cut_.split_time ? RunPiece(task) : RunRows(task); }

 private:
  enum { kA, kX, kH0, kReset, kHLast, kH };

  ForwardRow Row(const Offsets& offsets, int64_t lane, int64_t count, int64_t begin,
                 int64_t end) const {
    return {At(kA, offsets, lane, begin),
            At(kX, offsets, lane, begin),
            At(kReset, offsets, lane, begin),
            At(kH, offsets, lane, begin),
            nullptr,
            end - begin,
            count};
  }

  void RunRows(int64_t task) const {
    const int64_t lane = task % cut_.lane_tasks * cut_.lanes_per_task;
    const int64_t count = std::min(cut_.lanes_per_task, lanes() - lane);
    const int64_t first = task / cut_.lane_tasks * cut_.rows_per_task;
    const int64_t last = std::min(first + cut_.rows_per_task, layout_.rows);
    std::array<ForwardRow, kMostTogether> rows;
    for (int64_t begin = first; begin < last; begin += together_) {
      const int n = static_cast<int>(std::min(together_, last - begin));
      for (int i = 0; i < n; ++i) {
        const Offsets offsets = layout_.Offsets(begin + i);
        rows[i] = Row(offsets, lane, count, 0, steps());
        rows[i].state = At(kHLast, offsets, lane, 0).data;
        CopyState(rows[i].state, kH0, offsets, lane, count);
      }
      loops_.forward(rows.data(), n);
    }
  }

  void RunPiece(int64_t task) const {
    const int64_t piece = task % pieces_, begin = piece * piece_steps_;
    const int64_t size = lanes() * loops_.state_bytes;
    const Offsets offsets = layout_.Offsets(task / pieces_);
    Parts parts(std::min(piece_steps_, steps() - begin), lanes(), narrow(), loops_);
    std::vector<ForwardRow> rows(parts.count());
    for (int i = 0; i < parts.count(); ++i) {
      rows[i] = Row(offsets, 0, lanes(), begin + parts.start(i), begin + parts.start(i + 1));
      rows[i].state = parts.carry(i);
      parts.row(i).a = rows[i].a;
      parts.row(i).x = rows[i].x;
      parts.row(i).reset = rows[i].reset;
    }
    parts.Summarize(loops_, false);

    if (piece == 0) {
      CopyState(parts.carry(0), kH0, offsets, 0, lanes());
    } else {
      std::memcpy(parts.carry(0), chain_->Wait(task - 1), size);
    }
    bool known = true;
    for (int i = 0; i < parts.count(); ++i) {
      void* after = i + 1 < parts.count() ? parts.carry(i + 1) : chain_->state(task);
      known = loops_.apply(parts.row(i), parts.carry(i), after) && known;
    }
    if (known) {
      chain_->Publish(task);
      if (parts.equal() > 0) loops_.forward(rows.data(), parts.equal());
      if (parts.equal() < parts.count()) loops_.forward(&rows.back(), 1);
    } else {
      for (int i = 0; i < parts.count(); ++i) {
        if (i > 0) std::memcpy(rows[i].state, rows[i - 1].state, size);
        loops_.forward(&rows[i], 1);
      }
      std::memcpy(chain_->state(task), rows.back().state, size);
      chain_->Publish(task);
    }
    if (piece == pieces_ - 1) {
      std::memcpy(At(kHLast, offsets, 0, 0).data, rows.back().state, size);
    }
  }

  const int64_t together_;
  const Cut cut_;
  int64_t piece_steps_ = 0, pieces_ = 0;
  std::unique_ptr<Chain> chain_;
};

// ---- backward --------------------------------------------------------------------------------

class BackwardJob : public RowJob {
 public:
  BackwardJob(const Backward& backward, int64_t threads)
      : RowJob(backward.dtype, backward.shape, backward.reverse,
               {{{backward.g_last, Kind::kState},
                 {backward.g},
                 {backward.a},
                 {backward.h},
                 {backward.h0, Kind::kState},
                 {backward.reset, Kind::kFlag},
                 {backward.da},
                 {backward.dx},
                 {backward.dh0, Kind::kState}}},
               9),
        share_(has(kDa) ? layout_.GroupBy(kDa) : 1),
        together_(narrow() ? 1 : Together(kDx)),
        cut_(CutWork(layout_, loops_.element_bytes, together_, threads)) {
    for (int i = 0; i < backward.shape.rank && has(kDa); ++i) da_count_ *= backward.da.dims[i];
    kind_ = KindOfGradient();
    if (cut_.split_time) {
      piece_steps_ = PieceSteps();
      pieces_ = CeilDiv(steps(), piece_steps_);
      chain_ = std::make_unique<Chain>(layout_.rows * pieces_, lanes() * loops_.state_bytes);
      tasks_ = layout_.rows * pieces_;
      sums_ = over_time() ? share_ * pieces_ : share_;
    } else if (lanes() > 0 && layout_.rows > 0) {
      // A task takes rows that share one decay, so that nobody else adds to the same sums.
      const int64_t groups = layout_.rows / share_;
      rows_per_task_ = std::min(share_, cut_.rows_per_task);
      share_tasks_ = CeilDiv(share_, rows_per_task_);
      groups_per_task_ = std::max<int64_t>(cut_.rows_per_task / rows_per_task_, 1);
      tasks_ = CeilDiv(groups, groups_per_task_) * share_tasks_ * cut_.lane_tasks;
      sums_ = share_tasks_ * (over_lanes() ? cut_.lane_tasks : 1);
    }
    PrepareSums();
  }

  void Run(int64_t task) override { cut_.split_time ? RunPiece(task) : RunRows(task); }

  void Finish() override {
    if (workspace_.empty()) return;
    const int64_t size = da_count_ * loops_.state_bytes;
    for (int64_t i = 1; i < sums_; ++i) {
      loops_.accumulate(workspace_.data(), workspace_.data() + i * size, da_count_);
    }
    loops_.narrow(operands_[kDa].array.data, workspace_.data(), da_count_);
  }

 private:
  enum { kGLast, kG, kA, kH, kH0, kReset, kDa, kDx, kDh0 };

  bool over_time() const {
    return kind_ == DecayGradient::kTime || kind_ == DecayGradient::kTimeLanes;
  }
  bool over_lanes() const {
    return kind_ == DecayGradient::kAddLanes || kind_ == DecayGradient::kTimeLanes;
  }

  DecayGradient KindOfGradient() const {
    if (!has(kDa)) return DecayGradient::kNone;
    const bool same_lanes = layout_.lanes.stride[kDa] == 0;
    if (layout_.time.stride[kDa] == 0) {
      return same_lanes ? DecayGradient::kTimeLanes : DecayGradient::kTime;
    }
    if (same_lanes) return DecayGradient::kAddLanes;
    return share_ == 1 ? DecayGradient::kStore : DecayGradient::kAdd;
  }

  // Where the sums that make up the cotangent of a go: each of `sums_` sets of tasks has an array
  // of its own, which Finish adds in their order; a single one is the result itself.
  void PrepareSums() {
    if (kind_ == DecayGradient::kNone) return;
    const bool own_dtype = loops_.state_bytes == loops_.element_bytes;
    if (kind_ == DecayGradient::kStore || (sums_ == 1 && own_dtype)) {
      if (over_time() || tasks_ == 0) {
        std::memset(operands_[kDa].array.data, 0, da_count_ * loops_.element_bytes);
      }
      return;
    }
    sums_ = std::max<int64_t>(sums_, 1);
    workspace_.resize(sums_ * da_count_ * loops_.state_bytes);
  }

  Stream Sum(int64_t index, const Offsets& offsets, int64_t lane, int64_t begin) {
    if (kind_ == DecayGradient::kNone) return {};
    if (workspace_.empty()) return At(kDa, offsets, lane, begin);
    char* sum = workspace_.data() + index * da_count_ * loops_.state_bytes;
    return At(kDa, sum, loops_.state_bytes, offsets, lane, begin);
  }

  BackwardRow Row(const Offsets& offsets, int64_t lane, int64_t count, int64_t begin, int64_t end,
                  int64_t sum, bool overwrite) {
    const bool with_decay = kind_ != DecayGradient::kNone;
    const Stream before = with_decay && begin == 0 ? At(kH0, offsets, lane, 0) : Stream{};
    return {At(kG, offsets, lane, begin),
            At(kA, offsets, lane, begin),
            with_decay ? At(kH, offsets, lane, begin) : Stream{},
            At(kReset, offsets, lane, begin),
            At(kDx, offsets, lane, begin),
            Sum(sum, offsets, lane, begin),
            before.data,
            before.lane,
            nullptr,
            end - begin,
            count,
            kind_,
            overwrite};
  }

  void RunRows(int64_t task) {
    const int64_t lane_task = task % cut_.lane_tasks;
    const int64_t share_task = task / cut_.lane_tasks % share_tasks_;
    const int64_t group = task / cut_.lane_tasks / share_tasks_ * groups_per_task_;
    const int64_t groups = std::min(group + groups_per_task_, layout_.rows / share_);
    const int64_t lane = lane_task * cut_.lanes_per_task;
    const int64_t count = std::min(cut_.lanes_per_task, lanes() - lane);
    const int64_t first = share_task * rows_per_task_;
    const int64_t last = std::min(first + rows_per_task_, share_);
    const int64_t sum = over_lanes() ? share_task * cut_.lane_tasks + lane_task : share_task;
    std::array<BackwardRow, kMostTogether> rows;
    int n = 0;
    for (int64_t i = group; i < groups; ++i) {
      for (int64_t j = first; j < last; ++j) {
        const Offsets offsets = layout_.Offsets(i * share_ + j);
        rows[n] = Row(offsets, lane, count, 0, steps(), sum, j == first);
        rows[n].state = At(kDh0, offsets, lane, 0).data;
        CopyState(rows[n].state, kGLast, offsets, lane, count);
        const bool all = i + 1 == groups && j + 1 == last;
        if (++n == together_ || all) loops_.backward(rows.data(), std::exchange(n, 0));
      }
    }
  }

  void RunPiece(int64_t task) {
    const int64_t piece = pieces_ - 1 - task % pieces_, begin = piece * piece_steps_;
    const int64_t end = std::min(begin + piece_steps_, steps());
    const int64_t size = lanes() * loops_.state_bytes;
    const int64_t shared = task / pieces_ % share_;
    const Offsets offsets = layout_.Offsets(task / pieces_);
    const int64_t sum = over_time() ? shared * pieces_ + piece : shared;
    BackwardRow row = Row(offsets, 0, lanes(), begin, end, sum, true);

    Parts parts(end - begin, lanes(), narrow(), loops_);
    for (int i = 0; i < parts.count(); ++i) {
      parts.row(i).a = At(kA, offsets, 0, begin + parts.start(i));
      parts.row(i).x = At(kG, offsets, 0, begin + parts.start(i));
      parts.row(i).reset = At(kReset, offsets, 0, begin + parts.start(i));
    }
    parts.Summarize(loops_, true);

    row.state = parts.carry(0);
    if (task % pieces_ == 0) {
      CopyState(row.state, kGLast, offsets, 0, lanes());
    } else {
      std::memcpy(row.state, chain_->Wait(task - 1), size);
    }
    bool known = true;
    const void* behind = row.state;
    for (int i = parts.count() - 1; i >= 0; --i) {
      known = loops_.apply(parts.row(i), behind, chain_->state(task)) && known;
      behind = chain_->state(task);
    }
    if (known) chain_->Publish(task);
    loops_.backward(&row, 1);
    if (!known) {
      std::memcpy(chain_->state(task), row.state, size);
      chain_->Publish(task);
    }
    if (piece == 0) std::memcpy(At(kDh0, offsets, 0, 0).data, row.state, size);
  }

  const int64_t share_;  // rows that share one cotangent of a
  const int64_t together_;
  const Cut cut_;
  int64_t da_count_ = 1;
  DecayGradient kind_;
  int64_t rows_per_task_ = 1, share_tasks_ = 1, groups_per_task_ = 1;
  int64_t sums_ = 1;
  std::vector<char> workspace_;
  int64_t piece_steps_ = 0, pieces_ = 0;
  std::unique_ptr<Chain> chain_;
};

}  // namespace

std::unique_ptr<Job> MakeJob(const Scan& scan, int64_t threads) {
  return std::make_unique<ForwardJob>(scan, threads);
}

std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads) {
  return std::make_unique<BackwardJob>(backward, threads);
}

}  // namespace fastscan
