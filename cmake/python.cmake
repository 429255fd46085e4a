# The extension `frspec_cpp._core` and its type stub. The hot loops are in the static library, so nanobind's habit of
# compiling for size costs nothing here.

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
execute_process(
  COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir
  OUTPUT_VARIABLE nanobind_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
find_package(nanobind CONFIG REQUIRED)

file(GLOB binding_sources CONFIGURE_DEPENDS python/bindings/*.cpp)
nanobind_add_module(_core NB_STATIC NB_SUPPRESS_WARNINGS ${binding_sources})
target_include_directories(_core PRIVATE python/bindings)
target_link_libraries(_core PRIVATE frspec frspec_flags)
# nanobind's files are made to be compiled as one.
set_target_properties(nanobind-static PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)
install(TARGETS _core LIBRARY DESTINATION frspec_cpp)

# Making the stub imports the extension, which a sanitized build cannot do without preloading its run-time library.
if(NOT FRSPEC_SANITIZE)
  nanobind_add_stub(_core_stub
    MODULE _core
    OUTPUT _core.pyi
    PYTHON_PATH $<TARGET_FILE_DIR:_core>
    DEPENDS _core)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/_core.pyi DESTINATION frspec_cpp)
endif()
