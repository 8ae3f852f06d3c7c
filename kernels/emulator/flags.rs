// An array of the compiler's flags, for build.rs and for the tests that compile kernels of their own.
// The library is used on the machine that builds it.
&[
    "-std=c++17",
    "-O2",
    "-march=native",
    "-fPIC",
    "-fvisibility=hidden",
    "-DTM_EMULATOR",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
]
