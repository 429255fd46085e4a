# The version is written once, in pyproject.toml. A build through scikit-build-core is told it; a plain CMake build
# reads it there.

function(frspec_read_version result)
  if(DEFINED SKBUILD_PROJECT_VERSION)
    set(${result} ${SKBUILD_PROJECT_VERSION} PARENT_SCOPE)
    return()
  endif()
  set(pyproject ${CMAKE_CURRENT_SOURCE_DIR}/pyproject.toml)
  set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS ${pyproject})
  file(STRINGS ${pyproject} line REGEX "^version = \"[0-9]+\\.[0-9]+\\.[0-9]+\"$" LIMIT_COUNT 1)
  if(NOT line)
    message(FATAL_ERROR "${pyproject}: expected a line of the form version = \"1.2.3\"; found none.")
  endif()
  string(REGEX REPLACE "^version = \"(.*)\"$" "\\1" version ${line})
  set(${result} ${version} PARENT_SCOPE)
endfunction()
