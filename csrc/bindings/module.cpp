// The private module scorefusion._core: names and argument lists only. Defaults and documentation live in Python.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../array/framework.h"
#include "../array/host_buffer.h"
#include "../array/noise.h"
#include "../cpu/isa.h"
#include "../cpu/threads.h"
#include "../cuda/runtime.h"
#include "../ops/aside.h"
#include "../ops/call.h"
#include "../ops/python.h"
#include "../ops/rows.h"
#include "jax_ffi.h"
#include "simplex.h"
#include "statistics.h"
#include "superposition.h"

namespace py = pybind11;
using namespace scorefusion;

namespace {

void register_errors() {
  py::register_local_exception_translator([](std::exception_ptr thrown) {
    try {
      if (thrown) std::rethrow_exception(thrown);
    } catch (const TypeError& error) {
      py::set_error(PyExc_TypeError, error.what());
    } catch (const ValueError& error) {
      py::set_error(PyExc_ValueError, error.what());
    } catch (const CudaError& error) {
      py::set_error(PyExc_RuntimeError, error.what());
    }
  });
}

// The one text that is not in Python, because the class is not.
constexpr const char* noise_doc =
    R"(Standard-normal noise that is never stored: kernels regenerate its elements where they need them.

An operand for `combine`, `gram`, `combine_gram` and `residual`, of whatever shape the arrays beside it have. Element d
(in C order, whatever the memory layout) of sample b is a function of the seed, the stream, the number of the sample and
d alone: the same bits on CPU and GPU, in every operation, for every split of a batch.

Args:
    seed: which noise, in [0, 2**64).
    stream: which of the independent noises of that seed, in [0, 2**64).
    sample: the number of the first sample, in [0, 2**63); the others count on. Or an array (B,) of sample numbers:
        integers on the host, which are copied, or int64 on the GPU of the operands.

Immutable, hashable and picklable; two are equal when they stand for the same noise.

Example:
    >>> import numpy as np
    >>> import scorefusion as sf
    >>> x = np.zeros((4, 3), np.float32)
    >>> whole = sf.Noise(seed=7).like(x)
    >>> bool((sf.Noise(seed=7, sample=2).like(x[2:]) == whole[2:]).all())
    True
)";

}  // namespace

PYBIND11_MODULE(_core, m) {
  load_numpy();
  register_errors();

  py::class_<Noise> noise(m, "Noise", py::is_final(), noise_doc);
  noise
      .def(py::init<py::handle, py::handle, py::handle>(), py::arg("seed"), py::arg("stream") = 0,
           py::arg("sample") = 0)
      .def(
          "like", [](const Noise& noise, py::handle x) { return noise_like(noise, x, py::none()); }, py::arg("x"),
          "The noise stored: an array of x's shape, dtype, framework and device. What x holds is not looked at.")
      .def_property_readonly("seed", &Noise::seed)
      .def_property_readonly("stream", &Noise::stream)
      .def_property_readonly("sample", &Noise::sample)
      .def("__repr__", &Noise::text)
      .def("__hash__", &Noise::hash)
      .def(
          "__eq__", [](const Noise& a, const Noise& b) { return a == b; }, py::is_operator())
      .def(py::pickle([](const Noise& a) { return py::make_tuple(a.seed(), a.stream(), a.sample()); },
                      [](const py::tuple& state) { return Noise(state[0], state[1], state[2]); }));
  set_noise_type(reinterpret_cast<PyTypeObject*>(noise.ptr()));

  py::class_<HostBuffer>(m, "HostBuffer", py::is_final())
      .def("__dlpack__", &HostBuffer::dlpack, py::kw_only(), py::arg("stream") = py::none(),
           py::arg("max_version") = py::none(), py::arg("dl_device") = py::none(), py::arg("copy") = py::none())
      .def("__dlpack_device__", [](const HostBuffer&) { return py::make_tuple(dlpack::cpu, 0); });

  m.def("combine", &combine, py::arg("u"), py::arg("c"), py::arg("out"));
  m.def("gram", &gram, py::arg("u"), py::arg("out"));
  m.def("combine_gram", &combine_gram, py::arg("u"), py::arg("c"), py::arg("out"));
  m.def("residual", &residual, py::arg("u"), py::arg("c"), py::arg("out"));

  m.def("combine_twice", &combine_twice, py::arg("u"), py::arg("c"), py::arg("first"), py::arg("share"), py::arg("out"),
        py::arg("r_out"));
  m.def("multiples", &multiples, py::arg("u"), py::arg("c"), py::arg("f"), py::arg("dtypes"));

  py::class_<AsideCalls>(m, "Aside", py::is_final())
      .def(py::init<bool>(), py::arg("at_once"))
      .def("combine", &AsideCalls::combine, py::arg("u"), py::arg("c"), py::arg("out"))
      .def("noise_like", &AsideCalls::noise_like, py::arg("noise"), py::arg("x"), py::arg("out"))
      .def(
          "add_rows",
          [](AsideCalls& aside, py::handle u, Values<double> scale, std::optional<Values<double>> shift,
             Values<double> weight, Values<std::int64_t> cell, py::array_t<double, py::array::c_style> sums) {
            aside.add_rows(u,
                           {std::move(scale), std::move(shift), std::move(weight), std::move(cell), std::move(sums)});
          },
          py::arg("u"), py::arg("scale"), py::arg("shift"), py::arg("weight"), py::arg("cell"),
          py::arg("sums").noconvert())
      .def("wait", &AsideCalls::wait);

  m.def("resample", &resample, py::arg("log_weights"), py::arg("method"), py::arg("seed"), py::arg("stream"),
        py::arg("first_group"));
  m.def("resample_below", &resample_below, py::arg("log_weights"), py::arg("threshold"), py::arg("method"),
        py::arg("seed"), py::arg("stream"), py::arg("first_group"));

  define_simplex(m);
  define_statistics(m);
  define_superposition(m);

  m.def("jax_targets", &jax_targets);
  m.def("num_threads", &num_threads);
  m.def("set_num_threads", &set_num_threads, py::arg("n"));
  m.def("isa", &isa_name);
  m.def("isas", &isa_available);
  m.def("cuda_available", &cuda::available);
  m.def("cuda_why_not", &cuda::why_not);
  m.def("cuda_architectures", &cuda::architectures);
  m.def("cuda_versions", [] { return py::make_tuple(cuda::runtime_version(), cuda::driver_version()); });
  m.attr("__version__") = SCOREFUSION_VERSION;
}
