//! The command line; all of it is in the library, so that `python -m ottla` runs the same.

fn main() -> std::process::ExitCode {
    let program: Vec<std::ffi::OsString> = std::env::current_exe().map(Into::into).into_iter().collect();
    std::process::ExitCode::from(ottla::native::cli::main(std::env::args_os(), &program))
}
