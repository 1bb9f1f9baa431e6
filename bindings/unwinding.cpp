// Threads that ask for the GIL once the interpreter has ended. Up to Python 3.13 such a thread is ended by unwinding
// its stack (pthread_exit), and a C++ frame ends the process then: its destructors must not throw, and nanobind's
// handlers must not swallow it. As in Python 3.14 the thread stops where it is instead, for the little time the process
// still has.
//
// Every frame with destructors or handlers names the function that unwinds it, and the linker's --wrap makes that this
// one for all frames of the module, nanobind's too. So there is no binding and no call into Python to be careful with.
#include <pthread.h>
#include <unistd.h>
#include <unwind.h>

extern "C" _Unwind_Reason_Code __real___gxx_personality_v0(int version, _Unwind_Action actions,
                                                           _Unwind_Exception_Class kind, _Unwind_Exception* exception,
                                                           _Unwind_Context* context);

extern "C" _Unwind_Reason_Code __wrap___gxx_personality_v0(int version, _Unwind_Action actions,
                                                           _Unwind_Exception_Class kind, _Unwind_Exception* exception,
                                                           _Unwind_Context* context) {
  if (actions & _UA_FORCE_UNWIND) {
    ::pthread_setname_np(::pthread_self(), "parked");  // for debuggers
    for (;;) ::pause();
  }
  return __real___gxx_personality_v0(version, actions, kind, exception, context);
}
