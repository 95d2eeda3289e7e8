//! `ottla-wasm-bindgen MODULE.wasm DIRECTORY`: writes `glue.js`, `glue.d.ts` and `glue_bg.wasm` into the directory.
//!
//! It is the part of `wasm-bindgen-cli` that the build needs, without that program's test server and its dependencies.

use std::process::ExitCode;

use wasm_bindgen_cli_support::Bindgen;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [module, directory] = arguments.as_slice() else {
        eprintln!("usage: ottla-wasm-bindgen MODULE.wasm DIRECTORY");
        return ExitCode::from(2);
    };
    let mut bindgen = Bindgen::new();
    bindgen.input_path(module).out_name("glue").typescript(true);
    let written = bindgen.web(true).and_then(|bindgen| bindgen.generate(directory));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ottla-wasm-bindgen: {error:#}");
            ExitCode::FAILURE
        }
    }
}
