// Linear attention's handlers, for kernels/cpu/attention.py.
//
// Of the operands, decay, beta and reset may be left out; the attributes say which are there.
#include <cstdint>
#include <optional>
#include <type_traits>
#include <utility>

#include "handler.h"
#include "linear_attention.h"

namespace fastscan::attention {
namespace {

// What operands and results have in common: arrays one after another, some of which are left out.
template <class Arguments>
class Reader {
 public:
  Reader(const Arguments& arguments, size_t first) : arguments_(arguments), next_(first) {}
  Array Take(bool given = true) {
    if (!given) return {};
    auto buffer = arguments_.template get<ffi::AnyBuffer>(next_++);
    if constexpr (std::is_same_v<Arguments, ffi::RemainingRets>) {
      return ResultOf(**buffer);
    } else {
      return ArrayOf(*buffer);
    }
  }

 private:
  const Arguments& arguments_;
  size_t next_;
};

Operands TakeOperands(Reader<ffi::RemainingArgs>& reader, bool decay, bool beta, bool reset) {
  Operands in;
  in.q = reader.Take();
  in.k = reader.Take();
  in.v = reader.Take();
  in.decay = reader.Take(decay);
  in.beta = reader.Take(beta);
  in.reset = reader.Take(reset);
  return in;
}

// The batch axes are those of a state, (*batch, keys, values).
Shape ShapeOf(const ffi::AnyBuffer& state, const Operands& in) {
  const auto dims = state.dimensions();
  Shape shape;
  shape.batch = dims.begin();
  shape.rank = static_cast<int>(dims.size()) - 2;
  shape.steps = in.k.dims[shape.rank];
  shape.keys = dims[shape.rank];
  shape.values = dims[shape.rank + 1];
  shape.decays = in.decay.data == nullptr ? 0 : in.decay.dims[shape.rank + 1];
  return shape;
}

template <class Problem>
ffi::Future Run(ffi::ThreadPool pool, ffi::DataType dtype, Problem problem) {
  const std::optional<Dtype> known = DtypeOf(dtype);
  if (known != Dtype::kF32 && known != Dtype::kF64) {
    return Refuse("the native kernels of linear attention have no such dtype");
  }
  problem.dtype = *known;
  return Start(pool, [&](int64_t threads) { return MakeJob(problem, threads); });
}

ffi::Future Scan(ffi::ThreadPool pool, ffi::AnyBuffer S0, ffi::RemainingArgs operands,
                 ffi::Result<ffi::AnyBuffer> S_last, ffi::RemainingRets results, bool decay,
                 bool beta, bool reset) {
  Reader<ffi::RemainingArgs> reader(operands, 0);
  Reader<ffi::RemainingRets> writer(results, 0);
  Forward forward;
  forward.in = TakeOperands(reader, decay, beta, reset);
  forward.shape = ShapeOf(*S_last, forward.in);
  forward.S0 = ArrayOf(S0);
  forward.S_last = ArrayOf(*S_last);
  forward.y = writer.Take();
  forward.starts = writer.Take();
  return Run(pool, S0.element_type(), std::move(forward));
}

ffi::Future Adjoint(ffi::ThreadPool pool, ffi::AnyBuffer g_last, ffi::RemainingArgs operands,
                    ffi::Result<ffi::AnyBuffer> dS0, ffi::RemainingRets results, bool decay,
                    bool beta, bool reset) {
  Reader<ffi::RemainingArgs> reader(operands, 0);
  Reader<ffi::RemainingRets> writer(results, 0);
  Backward backward;
  backward.g_last = ArrayOf(g_last);
  backward.g = reader.Take();
  backward.starts = reader.Take();
  backward.in = TakeOperands(reader, decay, beta, reset);
  backward.shape = ShapeOf(*dS0, backward.in);
  backward.dS0 = ArrayOf(*dS0);
  backward.dq = writer.Take();
  backward.dk = writer.Take();
  backward.dv = writer.Take();
  backward.dlog_decay = writer.Take(decay);
  backward.dbeta = writer.Take(beta);
  return Run(pool, g_last.element_type(), std::move(backward));
}

}  // namespace
}  // namespace fastscan::attention

#pragma GCC visibility push(default)

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_attention_scan, fastscan::attention::Scan,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .RemainingRets()
                                  .Attr<bool>("decay")
                                  .Attr<bool>("beta")
                                  .Attr<bool>("reset"));

XLA_FFI_DEFINE_HANDLER_SYMBOL(fastscan_attention_backward, fastscan::attention::Adjoint,
                              xla::ffi::Ffi::Bind()
                                  .Ctx<xla::ffi::ThreadPool>()
                                  .Arg<xla::ffi::AnyBuffer>()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::AnyBuffer>()
                                  .RemainingRets()
                                  .Attr<bool>("decay")
                                  .Attr<bool>("beta")
                                  .Attr<bool>("reset"));

#pragma GCC visibility pop
