# Decides whether the CUDA backend is built, and finds its compiler. Sets
#   WARPJET_HAVE_CUDA      ON or OFF
#   WARPJET_ARCHS          the architectures to compile for
#   WARPJET_WITHOUT_CUDA   why the backend is left out, in words: the library repeats it at run time, since pip shows no
#                          message of CMake
set(WARPJET_HAVE_CUDA OFF)
set(WARPJET_NEEDS_CUDART OFF)
string(TOUPPER "${WARPJET_CUDA}" WARPJET_CUDA)
if(NOT WARPJET_CUDA MATCHES "^(AUTO|ON|OFF)$")
  message(FATAL_ERROR "WARPJET_CUDA is \"${WARPJET_CUDA}\"; it can be AUTO, ON or OFF")
endif()
if(WARPJET_CUDA STREQUAL "OFF")
  set(WARPJET_WITHOUT_CUDA "it was built with WARPJET_CUDA=OFF")
  message(STATUS "CUDA backend: off")
  return()
endif()

# nvcc: as CMake is told, in the PATH, where the toolkit installs itself, or from the wheels of PyPI.
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  if(NOT DEFINED ENV{WARPJET_PYPI_NVCC})
    find_program(WARPJET_NVCC nvcc PATHS /usr/local/cuda/bin /opt/cuda/bin)
  endif()
  set(nvcc "${WARPJET_NVCC}")
  if(NOT nvcc)
    find_package(Python 3.11 COMPONENTS Interpreter QUIET)
    if(Python_FOUND)
      execute_process(COMMAND ${Python_EXECUTABLE} -c "import glob, nvidia
print(next(iter(sum((glob.glob(p + '/cu*/bin/nvcc') for p in nvidia.__path__), [])), ''))"
                      OUTPUT_VARIABLE nvcc ERROR_QUIET OUTPUT_STRIP_TRAILING_WHITESPACE)
    endif()
    if(nvcc)
      get_filename_component(wheel ${nvcc}/../.. ABSOLUTE)
      set(ENV{CUDAFLAGS} "$ENV{CUDAFLAGS} -L${wheel}/lib")  # nvcc.profile says lib64
      file(GLOB cudart ${wheel}/lib/libcudart.so.*)
      set(CUDA_CUDART ${cudart} CACHE FILEPATH "")  # FindCUDAToolkit looks for libcudart.so, which the wheel lacks
    endif()
  endif()
  if(nvcc)
    set(CMAKE_CUDA_COMPILER ${nvcc})
  endif()
endif()
if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
  set(WARPJET_WITHOUT_CUDA "no nvcc was found when it was built")
  if(WARPJET_CUDA STREQUAL "ON")
    message(FATAL_ERROR "WARPJET_CUDA=ON, but there is no nvcc: put it in the PATH, name it in CUDACXX, or set "
                        "WARPJET_PYPI_NVCC=1 with pip")
  endif()
  message(STATUS "CUDA backend: off, no nvcc")
  return()
endif()

# The GPUs of this machine: "9.0" becomes 90a, since Hopper's kernels need it; the others are named by their number.
if(NOT WARPJET_ARCHS)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
                  OUTPUT_VARIABLE capabilities ERROR_QUIET RESULT_VARIABLE failed OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(failed EQUAL 0)
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" capabilities "${capabilities}")
    list(TRANSFORM capabilities REPLACE "\\." "")
    list(TRANSFORM capabilities REPLACE "^90$" "90a")
    list(REMOVE_DUPLICATES capabilities)
    list(FILTER capabilities EXCLUDE REGEX "^[1-7][0-9]$")  # older than anything that there are kernels for
    set(WARPJET_ARCHS ${capabilities})
  endif()
endif()
if(NOT WARPJET_ARCHS AND WARPJET_CUDA STREQUAL "AUTO")
  set(WARPJET_WITHOUT_CUDA "the machine that it was built on showed no GPU of compute capability 8.0 or newer, and WARPJET_ARCHS was not set")
  message(STATUS "CUDA backend: off, no GPU of 8.0 or newer here and no WARPJET_ARCHS")
  return()
elseif(NOT WARPJET_ARCHS)
  set(WARPJET_ARCHS 90a)
endif()
foreach(arch ${WARPJET_ARCHS})
  if(NOT arch MATCHES "^([89]|1[0-9])[0-9]a?$")
    message(FATAL_ERROR "WARPJET_ARCHS has \"${arch}\"; it takes numbers such as 80, 89, 90a and 120, separated by ;")
  endif()
endforeach()

# The compiler. What is too old fails here and not in the middle of a kernel.
set(CMAKE_CUDA_ARCHITECTURES OFF)  # our targets name theirs
set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
enable_language(CUDA)
set(oldest 12.8)
if(CMAKE_CUDA_COMPILER_VERSION VERSION_LESS ${oldest})
  set(WARPJET_WITHOUT_CUDA "nvcc ${CMAKE_CUDA_COMPILER_VERSION} is older than ${oldest}")
  if(WARPJET_CUDA STREQUAL "ON")
    message(FATAL_ERROR "WARPJET_CUDA=ON, but ${WARPJET_WITHOUT_CUDA}: name a newer one in CUDACXX, or set "
                        "WARPJET_PYPI_NVCC=1 with pip")
  endif()
  message(STATUS "CUDA backend: off, ${WARPJET_WITHOUT_CUDA}")
  return()
endif()
if(NOT CMAKE_CUDA20_STANDARD_COMPILE_OPTION)  # CMake 3.25 does not know that nvcc takes C++20
  set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION "-std=c++20")
  set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION "-std=c++20")
  list(APPEND CMAKE_CUDA_COMPILE_FEATURES cuda_std_20)
endif()
set(CMAKE_CUDA_STANDARD 20)  # only now: the check of the compiler would fail with it
set(CMAKE_CUDA_VISIBILITY_PRESET hidden)
find_package(CUDAToolkit REQUIRED)
set(WARPJET_HAVE_CUDA ON)
if(NOT BUILD_SHARED_LIBS)
  set(WARPJET_NEEDS_CUDART ON)
endif()
message(STATUS "CUDA backend: for ${WARPJET_ARCHS}, with nvcc ${CMAKE_CUDA_COMPILER_VERSION}")
