// How the operands of a scan lie along batch, time and channels.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "linear_scan.h"

namespace fastscan {

constexpr int kMaxOperands = 9;

// An axis of the problem with the distance between neighbours in each operand, in elements; 0 where
// the operand broadcasts.
struct Axis {
  int64_t extent = 1;
  std::array<int64_t, kMaxOperands> stride{};
};

// The problem as rows, each of them a scan over `time` of neighbouring channels, `lanes`. Axes that
// are neighbours in every operand are folded into one, so that leading axes become the batch and
// trailing ones the channels without a transpose. What can't be folded (a decay per head, a reset
// per group of channels) becomes a batch axis of its own.
class Layout {
 public:
  Layout(const Shape& shape, const Array* const* operands, int count) : operands_(count) {
    std::array<Axis, kMaxRank> axes;
    for (int i = 0; i < shape.rank; ++i) axes[i].extent = shape.dims[i];
    for (int o = 0; o < count; ++o) {
      if (operands[o]->data == nullptr) continue;
      int64_t stride = 1;
      for (int i = shape.rank - 1; i >= 0; --i) {
        const int64_t extent = operands[o]->dims[i];
        axes[i].stride[o] = extent == 1 ? 0 : stride;
        stride *= extent;
      }
    }
    time = axes[shape.axis];
    Fold(axes.data(), axes.data() + shape.axis, 0);
    const size_t leading = batch_.size();
    Fold(axes.data() + shape.axis + 1, axes.data() + shape.rank, leading);
    if (batch_.size() == leading) {
      lanes.stride.fill(1);
    } else {
      lanes = batch_.back();
      batch_.pop_back();
    }
    for (const Axis& axis : batch_) rows *= axis.extent;
  }

  // Orders the batch axes so that the rows which share an element of operand `o` are neighbours,
  // and returns how many do.
  int64_t GroupBy(int o) {
    std::stable_partition(batch_.begin(), batch_.end(),
                          [o](const Axis& axis) { return axis.stride[o] != 0; });
    int64_t share = 1;
    for (const Axis& axis : batch_) share *= axis.stride[o] == 0 ? axis.extent : 1;
    return share;
  }

  // Where row `row` starts in each operand, in elements.
  std::array<int64_t, kMaxOperands> Offsets(int64_t row) const {
    std::array<int64_t, kMaxOperands> offsets{};
    for (auto axis = batch_.rbegin(); axis != batch_.rend(); ++axis) {
      const int64_t index = row % axis->extent;
      row /= axis->extent;
      for (int o = 0; o < operands_; ++o) offsets[o] += index * axis->stride[o];
    }
    return offsets;
  }

  Axis time, lanes;
  int64_t rows = 1;

 private:
  // Appends axes to the batch, folding neighbours; what stands before `first` is left alone.
  void Fold(const Axis* begin, const Axis* end, size_t first) {
    for (const Axis* axis = begin; axis != end; ++axis) {
      if (axis->extent == 1) continue;
      if (batch_.size() > first && Contiguous(batch_.back(), *axis)) {
        const int64_t extent = batch_.back().extent * axis->extent;
        batch_.back() = *axis;
        batch_.back().extent = extent;
      } else {
        batch_.push_back(*axis);
      }
    }
  }

  bool Contiguous(const Axis& left, const Axis& right) const {
    for (int o = 0; o < operands_; ++o) {
      if (left.stride[o] != right.stride[o] * right.extent) return false;
    }
    return true;
  }

  const int operands_;
  // Not an array of kMaxRank: a job would be larger than what malloc keeps at hand, and a tiny scan
  // wait for it.
  std::vector<Axis> batch_;
};

}  // namespace fastscan
