//! The `esker` binary.

use std::process::ExitCode;

/// Long-lived buffers of many sizes: jemalloc keeps resident memory close to what is in use.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    esker::app::main()
}
