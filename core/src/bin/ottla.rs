//! The command line; all of it is in the library.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::from(ottla::native::cli::main(std::env::args_os()))
}
