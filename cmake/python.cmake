# The extensions `frspec_cpp._core`, with its type stub, and, for tests, `frspec_cpp._testing`. The hot loops are in the
# static library, so nanobind's habit of compiling for size costs nothing here.

find_package(Python 3.10 REQUIRED COMPONENTS Interpreter Development.Module)
execute_process(
  COMMAND ${Python_EXECUTABLE} -m nanobind --cmake_dir
  OUTPUT_VARIABLE nanobind_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
find_package(nanobind CONFIG REQUIRED)

function(frspec_add_extension name)
  nanobind_add_module(${name} NB_STATIC NB_SUPPRESS_WARNINGS ${ARGN})
  target_include_directories(${name} PRIVATE python python/bindings)
  target_link_libraries(${name} PRIVATE frspec frspec_flags)
  install(TARGETS ${name} LIBRARY DESTINATION frspec_cpp)
endfunction()

file(GLOB core_sources CONFIGURE_DEPENDS python/bindings/*.cpp)
frspec_add_extension(_core ${core_sources})
if(FRSPEC_TESTING)
  file(GLOB testing_sources CONFIGURE_DEPENDS python/testing/*.cpp)
  frspec_add_extension(_testing ${testing_sources} python/bindings/option_table.cpp)
  # A program of tests, which finds it beside `_testing`.
  add_executable(step_allocations python/testing/programs/step_allocations.cpp
    cpp/cli/arguments.cpp cpp/cli/option_arguments.cpp cpp/cli/unknown_option.cpp)
  target_link_libraries(step_allocations PRIVATE frspec frspec_flags)
  install(TARGETS step_allocations RUNTIME DESTINATION frspec_cpp)
endif()
# nanobind's files are made to be compiled as one.
set_target_properties(nanobind-static PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 0)

# Making the stub imports the extension, which a sanitized build cannot do without preloading its run-time library.
if(NOT FRSPEC_SANITIZE)
  nanobind_add_stub(_core_stub
    MODULE _core
    OUTPUT _core.pyi
    PYTHON_PATH $<TARGET_FILE_DIR:_core>
    DEPENDS _core)
  # The types of options, of the table in the extension.
  add_custom_command(OUTPUT option_table.pyi DEPENDS _core ${CMAKE_CURRENT_LIST_DIR}/option_stub.py
    COMMAND ${Python_EXECUTABLE} ${CMAKE_CURRENT_LIST_DIR}/option_stub.py $<TARGET_FILE_DIR:_core> option_table.pyi)
  add_custom_target(option_stub ALL DEPENDS option_table.pyi)
  install(FILES ${CMAKE_CURRENT_BINARY_DIR}/_core.pyi ${CMAKE_CURRENT_BINARY_DIR}/option_table.pyi
    DESTINATION frspec_cpp)
endif()
