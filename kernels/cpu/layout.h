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
  Layout(const std::vector<int64_t>& shape, int axis, const std::vector<const Array*>& operands)
      : operands_(static_cast<int>(operands.size())) {
    std::vector<Axis> axes(shape.size());
    for (size_t i = 0; i < shape.size(); ++i) axes[i].extent = shape[i];
    for (int o = 0; o < operands_; ++o) {
      const std::vector<int64_t>& dims = operands[o]->dims;
      int64_t stride = 1;
      for (int64_t i = static_cast<int64_t>(dims.size()) - 1; i >= 0; --i) {
        axes[i].stride[o] = dims[i] == 1 ? 0 : stride;
        stride *= dims[i];
      }
    }
    time = axes[axis];
    outer = Fold(axes.begin(), axes.begin() + axis);
    std::vector<Axis> trailing = Fold(axes.begin() + axis + 1, axes.end());
    if (trailing.empty()) {
      for (int o = 0; o < operands_; ++o) lanes.stride[o] = 1;
    } else {
      lanes = trailing.back();
      trailing.pop_back();
    }
    outer.insert(outer.end(), trailing.begin(), trailing.end());
    CountRows();
  }

  // Orders the batch axes so that the rows which share an element of operand `o` are neighbours,
  // and returns how many do.
  int64_t GroupBy(int o) {
    std::stable_partition(outer.begin(), outer.end(),
                          [o](const Axis& axis) { return axis.stride[o] != 0; });
    int64_t share = 1;
    for (const Axis& axis : outer) share *= axis.stride[o] == 0 ? axis.extent : 1;
    return share;
  }

  // Where row `row` starts in each operand, in elements.
  std::array<int64_t, kMaxOperands> Offsets(int64_t row) const {
    std::array<int64_t, kMaxOperands> offsets{};
    for (auto axis = outer.rbegin(); axis != outer.rend(); ++axis) {
      const int64_t i = row % axis->extent;
      row /= axis->extent;
      for (int o = 0; o < operands_; ++o) offsets[o] += i * axis->stride[o];
    }
    return offsets;
  }

  std::vector<Axis> outer;
  Axis time, lanes;
  int64_t rows = 1;

 private:
  using Iterator = std::vector<Axis>::const_iterator;

  std::vector<Axis> Fold(Iterator begin, Iterator end) const {
    std::vector<Axis> folded;
    for (Iterator axis = begin; axis != end; ++axis) {
      if (axis->extent == 1) continue;
      if (!folded.empty() && Contiguous(folded.back(), *axis)) {
        const int64_t extent = folded.back().extent * axis->extent;
        folded.back() = *axis;
        folded.back().extent = extent;
      } else {
        folded.push_back(*axis);
      }
    }
    return folded;
  }

  bool Contiguous(const Axis& left, const Axis& right) const {
    for (int o = 0; o < operands_; ++o) {
      if (left.stride[o] != right.stride[o] * right.extent) return false;
    }
    return true;
  }

  void CountRows() {
    for (const Axis& axis : outer) rows *= axis.extent;
  }

  int operands_;
};

}  // namespace fastscan
