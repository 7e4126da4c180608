// multiples: one pass on the host; on a GPU a pass that makes r, and one for each result.
#include "multiples.h"

#include "call.h"
#include "combine.h"
#include "python.h"

namespace scorefusion {

namespace {

void multiples_on_device(Call& call, const Coefficients& f, const Multiples& results) {
  const DType precise = in_float64(call.batch(), results) ? DType::float64 : DType::float32;
  Destination memory;
  Output r = results.back().y;
  if (r.dtype != precise) r = call.place_fresh(memory, precise);
  const int64_t most = std::max(combine_workspace(call.batch(), call.c()), combine_workspace(call.batch(), f));
  double* const workspace = call.workspace(most);
  multiples_of_stored(call.batch(), call.c(), f, results, r,
                      [&](const Batch& batch, const Coefficients& c, const Output& y) {
                        combine_cuda(batch, c, y, workspace, call.stream());
                      });
}

}  // namespace

py::list multiples(py::handle u, py::handle c, py::handle f, const std::vector<int>& dtypes) {
  Call call(u, c, py::none());
  const int count = int(dtypes.size());
  if (count > max_operands) throw ValueError("multiples: at most 64 results");
  const Coefficients& factors = call.read_factors(f, count);
  call.place(false);
  std::vector<Destination> places(count);
  Multiples results;
  for (int k = 0; k < count; ++k)
    if (dtypes[k] >= 0) results.push_back({call.place_fresh(places[k], DType(dtypes[k])), k});
  if (!call.empty() && !results.empty()) {
    if (call.on_host())
      call.run_on_host([&](const Work& work) { multiples_cpu(call.batch(), call.c(), factors, results, work); });
    else
      multiples_on_device(call, factors, results);
  }
  call.finish();
  py::list found;
  for (int k = 0; k < count; ++k) found.append(dtypes[k] >= 0 ? places[k].take() : py::none());
  return found;
}

}  // namespace scorefusion
