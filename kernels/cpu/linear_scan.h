// The linear scan h[t] = a[t] h[t-1] + x[t] and its adjoint: the interface of the CPU kernels.
//
// Nothing here knows of XLA. A caller describes the arrays (Scan, Backward), gets a Job, and lets
// any number of threads run its tasks. `linear_scan_job.cc` cuts the work into tasks, the loops
// are in `linear_scan_loops.h`, compiled once per instruction set. ../README.md has the equations.
#pragma once

#include <cstdint>
#include <memory>

namespace fastscan {

enum class Dtype { kF16, kBF16, kF32, kF64, kC64, kC128 };

constexpr int kMaxRank = 16;

// A row-major array. Its rank is that of the problem's shape, and each of its axes has the shape's
// extent or is 1 and broadcasts. `data` is null where the array is left out. `dims` is read while
// the job is made and not kept.
struct Array {
  void* data = nullptr;
  const int64_t* dims = nullptr;
};

// The extents of all axes, at most kMaxRank, among them time.
struct Shape {
  const int64_t* dims = nullptr;
  int rank = 0;
  int axis = 0;
};

// The states before the first step and after the last one (h0, h_last, g_last, dh0) have an axis
// of extent 1 for time and hold float for the 16-bit dtypes.
struct Scan {
  Dtype dtype{};
  Shape shape;
  bool reverse = false;
  Array a, x, h0, reset;  // reset may be left out; its elements are bytes, 0 or 1
  Array h_last, h;
};

struct Backward {
  Dtype dtype{};
  Shape shape;
  bool reverse = false;
  Array g_last, g, a, h, h0, reset;  // without da, neither h nor h0 is read
  Array da, dx, dh0;                 // da is summed over the axes along which it is 1
};

// Work in tasks that may run at once, on any threads, as long as they are started in order: a task
// may wait for one with a smaller number. After the last of them, one call of Finish.
class Job {
 public:
  virtual ~Job() = default;
  virtual void Run(int64_t task) = 0;
  virtual void Finish() {}
  int64_t tasks() const { return tasks_; }

 protected:
  int64_t tasks_ = 0;
};

// The results are the same bits for the same arguments. `threads` is how many may take part.
std::unique_ptr<Job> MakeJob(const Scan& scan, int64_t threads);
std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads);

// The name of the instruction set that this processor runs: "avx512", "avx2" or "baseline".
const char* InstructionSet();

}  // namespace fastscan
