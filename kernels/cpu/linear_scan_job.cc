// The jobs of the linear scan: tasks over rows, over channels where there are too few rows, and
// over time where there are too few of both.
#include <algorithm>
#include <cstring>
#include <memory>
#include <utility>
#include <vector>

#include "linear_scan.h"
#include "linear_scan_rows.h"

namespace fastscan {
namespace {

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
        past_caches_(PastCaches(kH)),
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
            count,
            past_caches_};
  }

  void RunRows(int64_t task) const {
    const int64_t lane = task % cut_.lane_tasks * cut_.lanes_per_task;
    const int64_t count = std::min(cut_.lanes_per_task, lanes() - lane);
    const int64_t first = task / cut_.lane_tasks * cut_.rows_per_task;
    const int64_t last = std::min(first + cut_.rows_per_task, layout_.rows);
    std::vector<ForwardRow> rows(std::min(together_, last - first));
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

  const bool past_caches_;
  const int64_t together_;
  const Cut cut_;
  int64_t piece_steps_ = 0, pieces_ = 0;
  std::unique_ptr<Chain> chain_;
};

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
    past_caches_ = PastCaches(kDx) && (kind_ != DecayGradient::kStore || PastCaches(kDa));
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
      if (kind_ == DecayGradient::kAdd) {
        // Each set of tasks has sums as long as `a`: as few sets as keep all threads at work.
        const int64_t sets = CeilDiv(std::max<int64_t>(threads, 1), groups * cut_.lane_tasks);
        rows_per_task_ = std::max(rows_per_task_, CeilDiv(share_, sets));
      }
      share_tasks_ = CeilDiv(share_, rows_per_task_);
      groups_per_task_ = std::max<int64_t>(cut_.rows_per_task / rows_per_task_, 1);
      tasks_ = CeilDiv(groups, groups_per_task_) * share_tasks_ * cut_.lane_tasks;
      sums_ = share_tasks_ * (over_lanes() ? cut_.lane_tasks : 1);
    }
    PrepareSums();
  }

  void Run(int64_t task) override { cut_.split_time ? RunPiece(task) : RunRows(task); }

  void Finish() override {
    if (workspace_ == nullptr) return;
    auto* da = static_cast<char*>(operands_[kDa].array.data);
    char* total = in_place_ ? da : SumsOf(0);
    for (int64_t i = 1; i < sums_; ++i) loops_.accumulate(total, SumsOf(i), da_count_);
    if (!in_place_) loops_.narrow(da, total, da_count_);
  }

 private:
  enum { kGLast, kG, kA, kH, kH0, kReset, kDa, kDx, kDh0 };

  bool over_time() const { return kind_ == DecayGradient::kTime; }
  bool over_lanes() const { return has(kDa) && layout_.lanes.stride[kDa] == 0; }

  DecayGradient KindOfGradient() const {
    if (!has(kDa)) return DecayGradient::kNone;
    if (layout_.time.stride[kDa] == 0) return DecayGradient::kTime;
    return over_lanes() || share_ > 1 ? DecayGradient::kAdd : DecayGradient::kStore;
  }

  // Where the sums that make up the cotangent of a go: each of `sums_` sets of tasks has an array
  // of its own, which Finish adds in their order; a single one is the result itself.
  void PrepareSums() {
    if (kind_ == DecayGradient::kNone) return;
    // Sums over time are added to what is there, and without tasks nobody writes anything.
    const bool zero = over_time() || tasks_ == 0;
    in_place_ = kind_ == DecayGradient::kStore || loops_.state_bytes == loops_.element_bytes;
    if (zero && in_place_) {
      std::memset(operands_[kDa].array.data, 0, da_count_ * loops_.element_bytes);
    }
    if (kind_ == DecayGradient::kStore) return;
    sums_ = std::max<int64_t>(sums_, 1);
    const int64_t size = (sums_ - in_place_) * da_count_ * loops_.state_bytes;
    if (size == 0) return;
    workspace_.reset(new char[size]);
    if (zero) std::memset(workspace_.get(), 0, size);
  }

  // Where set `index` of tasks adds up, if not in the result.
  char* SumsOf(int64_t index) const {
    return workspace_.get() + (index - in_place_) * da_count_ * loops_.state_bytes;
  }

  Stream Sum(int64_t index, const Offsets& offsets, int64_t lane, int64_t begin) {
    if (kind_ == DecayGradient::kNone) return {};
    if (index < in_place_ || kind_ == DecayGradient::kStore) return At(kDa, offsets, lane, begin);
    return At(kDa, SumsOf(index), loops_.state_bytes, offsets, lane, begin);
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
            overwrite,
            past_caches_};
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
    // Rows that add to the same sums take turns, in which the sums stay in the core's cache.
    const bool turns = kind_ == DecayGradient::kAdd && together_ == 1 && last - first > 1;
    const int64_t turn = turns ? PieceSteps() : steps();
    std::vector<BackwardRow> rows(std::min(together_, (groups - group) * (last - first)));
    int n = 0;
    for (int64_t i = group; i < groups; ++i) {
      int64_t end = steps();
      do {
        const int64_t begin = std::max<int64_t>(end - turn, 0);
        for (int64_t j = first; j < last; ++j) {
          const Offsets offsets = layout_.Offsets(i * share_ + j);
          rows[n] = Row(offsets, lane, count, begin, end, sum, j == first);
          rows[n].state = At(kDh0, offsets, lane, 0).data;
          if (end == steps()) CopyState(rows[n].state, kGLast, offsets, lane, count);
          const bool all = i + 1 == groups && j + 1 == last;
          if (++n == together_ || all) loops_.backward(rows.data(), std::exchange(n, 0));
        }
        end = begin;
      } while (end > 0);
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
  bool past_caches_;
  int64_t rows_per_task_ = 1, share_tasks_ = 1, groups_per_task_ = 1;
  int64_t sums_ = 1;
  bool in_place_ = true;  // the first sums are the result itself
  std::unique_ptr<char[]> workspace_;
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
