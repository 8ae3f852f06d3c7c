//! Writes what a policy in C includes and links: `c-bindings WIT WORLD FOLDER` makes `WORLD.h`, `WORLD.c` and
//! `WORLD_component_type.o`. The program `wit-bindgen c` does the same, but takes minutes to install.
#![forbid(unsafe_code)]

use std::{error::Error, fs, path::Path};

use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::Resolve;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, wit, world, folder] = args.as_slice() else {
        return Err("usage: c-bindings WIT WORLD FOLDER".into());
    };
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    let mut files = Files::default();
    wit_bindgen_c::Opts::default().build().generate(&mut resolve, world, &mut files)?;
    fs::create_dir_all(folder)?;
    for (name, content) in files.iter() {
        fs::write(Path::new(folder).join(name), content)?;
    }
    Ok(())
}
