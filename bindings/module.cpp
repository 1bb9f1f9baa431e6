// The module itself: version, errors, and the parts of the interface.
#include "bindings.h"

#include <limits>

namespace warpjet::python {

void raise_type_error(const std::string& message) {
  PyErr_SetString(PyExc_TypeError, message.c_str());
  throw nb::python_error();
}

void raise_value_error(const std::string& message) {
  PyErr_SetString(PyExc_ValueError, message.c_str());
  throw nb::python_error();
}

std::string kind_of(nb::handle value) {
  return nb::cast<std::string>(value.type().attr("__name__"));
}

std::int64_t to_integer(nb::handle value, const std::string& name, std::int64_t low, std::int64_t high) {
  if (PyBool_Check(value.ptr()) || !PyIndex_Check(value.ptr()))
    raise_type_error(name + " must be an int, got " + kind_of(value));
  const nb::object index = nb::steal(PyNumber_Index(value.ptr()));
  if (!index.is_valid()) throw nb::python_error();
  int overflow = 0;
  const long long number = PyLong_AsLongLongAndOverflow(index.ptr(), &overflow);
  if (number == -1 && PyErr_Occurred()) throw nb::python_error();
  if (overflow != 0 || number < low || number > high)
    raise_value_error(name + " must be in [" + std::to_string(low) + ", " + std::to_string(high) + "], got " +
                      nb::cast<std::string>(nb::repr(index)));
  return number;
}

namespace {

// Python's own exceptions where one says the same, ours where the caller wants to tell them apart.
struct ErrorTypes {
  PyObject* engine_error;
  PyObject* device;
  PyObject* queue_full;
  PyObject* model_format;
};

PyObject* error_type(ErrorCode code, const ErrorTypes& types) {
  switch (code) {
    case ErrorCode::invalid_argument:
      return PyExc_ValueError;
    case ErrorCode::unsupported:
      return PyExc_NotImplementedError;
    case ErrorCode::overloaded:
      return types.queue_full;
    case ErrorCode::out_of_memory:
      return PyExc_MemoryError;
    case ErrorCode::io:
      return PyExc_OSError;
    case ErrorCode::deadline_exceeded:
      return PyExc_TimeoutError;
    case ErrorCode::corrupt:
      return types.model_format;
    case ErrorCode::device:
      return types.device;
    case ErrorCode::peer:
    case ErrorCode::closed:
    case ErrorCode::internal:
      return types.engine_error;
  }
  return types.engine_error;
}

void translate(const std::exception_ptr& exception, void* payload) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    // The place in our sources helps only when the mistake is ours.
    const char* text = error.code() == ErrorCode::internal ? error.what() : error.message().c_str();
    PyErr_SetString(error_type(error.code(), *static_cast<const ErrorTypes*>(payload)), text);
  }
}

PyObject* add_error(nb::module_& module, const char* name, PyObject* base, const char* doc) {
  const std::string qualified = std::string("warpjet.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, base, nullptr);
  if (type == nullptr) throw nb::python_error();
  module.attr(name) = nb::handle(type);
  return type;  // kept for the life of the process, as the translator is
}

}  // namespace
}  // namespace warpjet::python

NB_MODULE(_native, module) {
  using namespace warpjet::python;
  module.doc() = "The native half of warpjet: configs, the engine and its errors.";
  module.attr("__version__") = WARPJET_VERSION;
  nb::set_leak_warnings(false);  // objects alive at exit are the user's business

  static ErrorTypes types{};
  types.engine_error =
      add_error(module, "EngineError", PyExc_RuntimeError, "The engine failed, is closed, or met a bug in warpjet.");
  types.device = add_error(module, "DeviceError", types.engine_error,
                           "The device that was asked for cannot be used here, or failed.");
  types.queue_full = add_error(module, "QueueFullError", PyExc_RuntimeError,
                               "A queue limit is reached; try again when requests have finished.");
  types.model_format =
      add_error(module, "ModelFormatError", PyExc_ValueError, "A file of a checkpoint or an engine is malformed.");
  nb::register_exception_translator(translate, &types);

  bind_configs(module);
  bind_outputs(module);
  bind_engine(module);
  bind_module_functions(module);
}
