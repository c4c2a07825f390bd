// Cuts a matrix scan into tasks: sets of systems, columns of a system, and ranges of time for the
// gradients of the coefficients, which know no order once lambda is there.
#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "matrix_scan.h"
#include "matrix_scan_loops.h"

namespace fastscan::matrix {
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

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Steps whose arrays stay in the core's cache between the adjoint and the gradients.
constexpr int64_t kBlockBytes = 1 << 17;
// The least arithmetic that is worth a task of its own.
constexpr int64_t kTaskProducts = 1 << 14;
constexpr int64_t kTasksPerThread = 4;
// Columns in fewer vectors read a coefficient for too little arithmetic.
constexpr int64_t kBlockVectors = 2;
// The largest matrices that are worth transposing, so that systems lie across lanes.
constexpr int64_t kMostInterleaved = 16;

// An array's strides, in elements.
class Layout {
 public:
  Layout() = default;
  // `core` elements lie together for each system and step.
  Layout(const Array& array, const Problem& problem, bool over_time, bool over_systems,
         int64_t core, int64_t bytes)
      : data_(static_cast<char*>(array.data)), bytes_(bytes) {
    if (data_ == nullptr) return;
    const int rank = problem.batch_rank;
    const int64_t* own = array.dims + rank;
    count_ = core;
    if (over_systems) {
      const int64_t extent = own[over_time ? 1 : 0];
      if (extent > 1) system_ = count_;
      shared_ = extent < problem.systems;
      count_ *= extent;
    }
    if (over_time) {
      if (own[0] > 1) step_ = count_;
      count_ *= own[0];
      if (problem.reverse && own[0] > 1) first_ = (own[0] - 1) * step_;
    }
    if (problem.reverse) step_ = -step_;
    for (int i = rank - 1; i >= 0; --i) {
      batch_[i] = array.dims[i] > 1 ? count_ : 0;
      shared_ = shared_ || array.dims[i] < problem.batch[i];
      count_ *= array.dims[i];
    }
  }

  bool given() const { return data_ != nullptr; }
  bool shared() const { return shared_; }  // by several systems
  bool over_time() const { return step_ != 0; }
  int64_t count() const { return count_; }
  char* data() const { return data_; }

  Stream At(const Problem& problem, int64_t system) const { return At(problem, system, data_); }
  // The same place in another array of this layout.
  Stream At(const Problem& problem, int64_t system, char* data) const {
    if (data_ == nullptr) return {};
    int64_t offset = first_ + system % problem.systems * system_;
    int64_t index = system / problem.systems;
    for (int i = problem.batch_rank - 1; i >= 0; --i) {
      offset += index % problem.batch[i] * batch_[i];
      index /= problem.batch[i];
    }
    return {data + offset * bytes_, step_};
  }

 private:
  char* data_ = nullptr;
  int64_t bytes_ = 0, count_ = 0, system_ = 0, step_ = 0, first_ = 0;
  bool shared_ = false;
  std::array<int64_t, kMaxRank> batch_{};
};

class MatrixJob : public Job {
 protected:
  MatrixJob(const Problem& problem, int64_t threads)
      : problem_(problem), loops_(LoopsOf(problem.dtype)), threads_(threads) {
    for (int i = 0; i < problem.batch_rank; ++i) {
      batch_.push_back(problem.batch[i]);
      all_ *= problem.batch[i];
    }
    problem_.batch = batch_.data();
    all_ *= problem.systems;
    sizes_.n = problem.n;
    sizes_.m = problem.m;
    sizes_.r = problem.r;
    sizes_.product = problem.product;
    const bool one = problem.d.data != nullptr && problem.d.dims[problem.batch_rank + 2] == 1;
    const Array arrays[] = {problem.A, problem.d, problem.u, problem.w};
    const int64_t counts[] = {problem.n * problem.n, one ? 1 : problem.n, problem.r * problem.n,
                              problem.r * problem.n};
    for (int c = 0; c < kCoefficients; ++c) {
      if (arrays[c].data == nullptr) continue;
      sizes_.counts[c] = counts[c];
      coefficients_[c] = Of(arrays[c], true, true, counts[c]);
    }
    H0_ = Of(problem.H0, false, true, state());
    reset_ = Layout(problem.reset, problem_, true, true, 1, 1);
    kernel_ = &Choose();
    across_ = kernel_ != &loops_.columns && kernel_ != &loops_.column;
    sets_ = across_ ? CeilDiv(all_, kernel_->lanes) : all_;
  }

  int64_t state() const { return problem_.n * problem_.m; }
  int64_t steps() const { return problem_.steps; }
  Layout Of(const Array& array, bool over_time, bool over_systems, int64_t core) const {
    return Layout(array, problem_, over_time, over_systems, core, loops_.bytes);
  }

  // Into how many blocks of columns a system is cut, so that all threads have work.
  int64_t ColumnBlocks() const {
    const int64_t products = steps() * problem_.n * state();
    if (across_ || sets_ == 0 || sets_ >= threads_ || products < kTaskProducts) return 1;
    const int64_t most = problem_.m / (kBlockVectors * kernel_->lanes);
    return std::max<int64_t>(std::min(most, CeilDiv(threads_, sets_)), 1);
  }

  // The systems of one set, without the arrays that only one of the passes has.
  std::vector<System> Systems(int64_t set) const {
    const int64_t first = across_ ? set * kernel_->lanes : set;
    const int64_t last = across_ ? std::min(first + kernel_->lanes, all_) : first + 1;
    std::vector<System> systems(last - first);
    for (int64_t i = first; i < last; ++i) {
      System& system = systems[i - first];
      for (int c = 0; c < kCoefficients; ++c) {
        system.coefficients[c] = coefficients_[c].At(problem_, i);
      }
      system.reset = reset_.At(problem_, i);
      system.H0 = H0_.At(problem_, i).data;
    }
    return systems;
  }
  // Where an array of states before or after all steps lies for each lane.
  std::vector<char*> Edges(const Layout& layout, int64_t set) const {
    std::vector<char*> edges(across_ ? kernel_->lanes : 1);
    for (size_t i = 0; i < edges.size(); ++i) {
      const int64_t system = First(set) + static_cast<int64_t>(i);
      edges[i] = layout.At(problem_, system < all_ ? system : First(set)).data;
    }
    return edges;
  }
  int64_t First(int64_t set) const { return across_ ? set * kernel_->lanes : set; }

  Part PartOf(const std::vector<System>& systems) const {
    return {systems.data(), 0, across_ ? static_cast<int64_t>(systems.size()) : problem_.m};
  }
  Part Block(Part part, int64_t block, int64_t blocks) const {
    if (blocks == 1) return part;
    const int64_t width = CeilDiv(CeilDiv(problem_.m, kernel_->lanes), blocks) * kernel_->lanes;
    part.first = std::min(block * width, problem_.m);
    part.count = std::min(width, problem_.m - part.first);
    return part;
  }
  // Vectors that lie across two lines of a cache cost twice as much.
  struct alignas(64) Line {
    char bytes[64];
  };
  std::vector<Line> Scratch() const {
    const int64_t bytes = kernel_->scratch(sizes_, across_ ? kernel_->lanes : problem_.m);
    return std::vector<Line>(CeilDiv(bytes, sizeof(Line)));
  }

  // Tasks for `sets` sets, of some arithmetic each.
  int64_t TasksFor(int64_t sets) const {
    const int64_t each = std::max<int64_t>(steps() * problem_.n * state(), 1);
    const int64_t worth = CeilDiv(sets * each, kTaskProducts);
    return std::min({sets, worth, kTasksPerThread * threads_});
  }

  Problem problem_;
  std::vector<int64_t> batch_;
  const Loops& loops_;
  const int64_t threads_;
  Sizes sizes_;
  Layout coefficients_[kCoefficients], H0_, reset_;
  const Kernel* kernel_;
  bool across_;       // lanes are systems
  int64_t all_ = 1;   // systems
  int64_t sets_ = 0;  // of systems that run together

 private:
  const Kernel& Choose() const {
    const int64_t lanes = loops_.columns.lanes;
    if (2 * problem_.m >= lanes) return loops_.columns;
    if (2 * all_ < lanes || problem_.n > kMostInterleaved) return loops_.column;
    const bool few_rows = problem_.n >= kLeastSmall && problem_.n <= kMostSmall;
    if (few_rows && problem_.m == 1 && coefficients_[0].over_time()) {
      return loops_.small[problem_.n - kLeastSmall];
    }
    return loops_.systems;
  }
};

class ForwardJob : public MatrixJob {
 public:
  ForwardJob(const Scan& scan, int64_t threads)
      : MatrixJob(scan, threads), blocks_(ColumnBlocks()) {
    X_ = Of(scan.X, true, true, state());
    H_ = Of(scan.H, true, true, state());
    H_last_ = Of(scan.H_last, false, true, state());
    if (state() > 0 && sets_ > 0) tasks_ = blocks_ > 1 ? sets_ * blocks_ : TasksFor(sets_);
  }

  void Run(int64_t task) override {
    std::vector<Line> scratch = Scratch();
    if (blocks_ > 1) return RunSet(task / blocks_, task % blocks_, scratch.data());
    const int64_t last = sets_ * (task + 1) / tasks_;
    for (int64_t set = sets_ * task / tasks_; set < last; ++set) RunSet(set, 0, scratch.data());
  }

 private:
  void RunSet(int64_t set, int64_t block, void* scratch) const {
    std::vector<System> systems = Systems(set);
    for (size_t i = 0; i < systems.size(); ++i) {
      systems[i].in = X_.At(problem_, First(set) + i);
      systems[i].out = H_.At(problem_, First(set) + i);
    }
    const Part part = Block(PartOf(systems), block, blocks_);
    if (part.count == 0) return;
    const auto before = Edges(H0_, set);
    const auto after = Edges(H_last_, set);
    kernel_->load(sizes_, part, before.data(), scratch);
    kernel_->forward(sizes_, part, 0, steps(), scratch);
    kernel_->store(sizes_, part, after.data(), scratch);
  }

  const int64_t blocks_;
  Layout X_, H_, H_last_;
};

class BackwardJob : public MatrixJob {
 public:
  BackwardJob(const Backward& backward, int64_t threads)
      : MatrixJob(backward, threads), blocks_(ColumnBlocks()) {
    g_ = Of(backward.g, true, true, state());
    H_ = Of(backward.H, true, true, state());
    dX_ = Of(backward.dX, true, true, state());
    g_last_ = Of(backward.g_last, false, true, state());
    dH0_ = Of(backward.dH0, false, true, state());
    const Array arrays[] = {backward.dA, backward.dd, backward.du, backward.dw};
    for (int c = 0; c < kCoefficients; ++c) {
      if (arrays[c].data == nullptr) continue;
      gradients_[c] = Of(arrays[c], true, true, sizes_.counts[c]);
      any_ = true;
      shared_ = shared_ || gradients_[c].shared();
    }
    if (state() > 0 && sets_ > 0) Cut();
    // Both have the same lanes.
    if (kernel_->gradients == nullptr && (split_ || shared_)) kernel_ = &loops_.systems;
    Prepare();
  }

  void Run(int64_t task) override {
    std::vector<Line> scratch = Scratch();
    if (!split_) {
      const int64_t last = sets_ * (task + 1) / tasks_;
      for (int64_t set = sets_ * task / tasks_; set < last; ++set) {
        RunSet(set, task, scratch.data());
      }
      return;
    }
    const int64_t chains = sets_ * blocks_;
    if (task < chains) {
      RunAdjoint(task / blocks_, task % blocks_, scratch.data());
      const std::lock_guard<std::mutex> lock(mutex_);
      if (++finished_ == chains) all_finished_.notify_all();
      return;
    }
    {
      // Tasks start in order, so that the chains are all with a thread by now.
      std::unique_lock<std::mutex> lock(mutex_);
      all_finished_.wait(lock, [&] { return finished_ == chains; });
    }
    const int64_t index = task - chains, set = index / ranges_, range = index % ranges_;
    const std::vector<System> systems = WithGradients(set, index);
    // Steps in turns, from the first ones on: lambda of these is the latest, and may be in a cache.
    const int64_t block = std::min(BlockSteps(systems.size()), CeilDiv(steps(), ranges_));
    for (int64_t begin = range * block; begin < steps(); begin += ranges_ * block) {
      kernel_->gradients(sizes_, PartOf(systems), begin, std::min(begin + block, steps()),
                         scratch.data());
    }
  }

  void Finish() override {
    for (int c = 0; c < kCoefficients; ++c) {
      if (sums_[c].empty()) continue;
      const int64_t count = gradients_[c].count(), bytes = count * loops_.bytes;
      std::memcpy(gradients_[c].data(), sums_[c].data(), bytes);
      for (int64_t i = 1; i < parts_; ++i) {
        loops_.accumulate(gradients_[c].data(), sums_[c].data() + i * bytes, count);
      }
    }
  }

 private:
  void Cut() {
    const int64_t products = steps() * problem_.n * state();
    const bool few = sets_ < threads_ && sets_ * products >= kTaskProducts && steps() > 1;
    split_ = few && (any_ || blocks_ > 1);
    if (split_) {
      if (any_) ranges_ = std::min(CeilDiv(threads_, sets_), steps());
      parts_ = sets_ * ranges_;
      tasks_ = sets_ * blocks_ + parts_;
      return;
    }
    tasks_ = TasksFor(sets_);
    if (shared_) tasks_ = std::min(tasks_, threads_);
    parts_ = tasks_;
  }

  // Each part of the work adds to sums of its own what several of them have to add to; Finish adds
  // these in their order.
  void Prepare() {
    for (int c = 0; c < kCoefficients; ++c) {
      const Layout& gradient = gradients_[c];
      if (!gradient.given()) continue;
      const int64_t bytes = gradient.count() * loops_.bytes;
      sizes_.add[c] = gradient.shared();
      const bool several = gradient.shared() || (ranges_ > 1 && !gradient.over_time());
      if (several && parts_ > 1) {
        sums_[c].resize(parts_ * bytes);
      } else if (several || !gradient.over_time() || tasks_ == 0) {
        std::memset(gradient.data(), 0, bytes);
      }
    }
  }

  std::vector<System> Both(int64_t set) const {
    std::vector<System> systems = Systems(set);
    for (size_t i = 0; i < systems.size(); ++i) {
      systems[i].in = g_.At(problem_, First(set) + i);
      systems[i].out = dX_.At(problem_, First(set) + i);
    }
    return systems;
  }

  std::vector<System> WithGradients(int64_t set, int64_t part) {
    std::vector<System> systems = Both(set);
    for (size_t i = 0; i < systems.size(); ++i) {
      systems[i].H = H_.At(problem_, First(set) + i);
      for (int c = 0; c < kCoefficients; ++c) {
        const Layout& gradient = gradients_[c];
        char* sum = gradient.data();
        if (!sums_[c].empty()) sum = sums_[c].data() + part * gradient.count() * loops_.bytes;
        systems[i].gradients[c] = gradient.At(problem_, First(set) + i, sum);
      }
    }
    return systems;
  }

  int64_t BlockSteps(size_t systems) const {
    int64_t elements = 3 * state();
    for (const int64_t count : sizes_.counts) elements += 2 * count;
    const int64_t bytes = elements * loops_.bytes * static_cast<int64_t>(systems);
    return std::max<int64_t>(kBlockBytes / bytes, 1);
  }

  void RunAdjoint(int64_t set, int64_t block, void* scratch) const {
    const std::vector<System> systems = Both(set);
    const Part part = Block(PartOf(systems), block, blocks_);
    if (part.count == 0) return;
    kernel_->load(sizes_, part, Edges(g_last_, set).data(), scratch);
    kernel_->adjoint(sizes_, part, 0, steps(), scratch);
    kernel_->store(sizes_, part, Edges(dH0_, set).data(), scratch);
  }

  void RunSet(int64_t set, int64_t task, void* scratch) {
    if (!any_) return RunAdjoint(set, 0, scratch);
    const std::vector<System> systems = WithGradients(set, task);
    const Part part = PartOf(systems);
    kernel_->load(sizes_, part, Edges(g_last_, set).data(), scratch);
    const bool fused = kernel_->gradients == nullptr;
    const int64_t block = fused ? steps() : BlockSteps(systems.size());
    for (int64_t end = steps(); end > 0; end -= block) {
      const int64_t begin = std::max<int64_t>(end - block, 0);
      kernel_->adjoint(sizes_, part, begin, end, scratch);
      if (!fused) kernel_->gradients(sizes_, part, begin, end, scratch);
    }
    kernel_->store(sizes_, part, Edges(dH0_, set).data(), scratch);
  }

  const int64_t blocks_;
  Layout g_, H_, dX_, g_last_, dH0_, gradients_[kCoefficients];
  bool any_ = false;     // gradient of a coefficient
  bool shared_ = false;  // by several systems
  bool split_ = false;   // the adjoint by blocks of columns, then the gradients by ranges of time
  int64_t ranges_ = 0;
  int64_t parts_ = 1;    // that add to the gradients
  std::vector<char> sums_[kCoefficients];
  std::mutex mutex_;
  std::condition_variable all_finished_;
  int64_t finished_ = 0;
};

}  // namespace

std::unique_ptr<Job> MakeJob(const Scan& scan, int64_t threads) {
  return std::make_unique<ForwardJob>(scan, threads);
}

std::unique_ptr<Job> MakeJob(const Backward& backward, int64_t threads) {
  return std::make_unique<BackwardJob>(backward, threads);
}

}  // namespace fastscan::matrix
