//! `tokenmill backend …`: what a library is, and whether it keeps the contract.

use anyhow::{Context, Result, bail};
use clap::Subcommand;
use std::path::PathBuf;
use tokenmill_backend::{Backend as Library, Manifest};

#[derive(Subcommand)]
pub(crate) enum Backend {
    /// Show a backend's manifest, and whether it can run here.
    Info {
        /// A backend's NAME or the PATH of its library; `cpu` is built in.
        backend: String,
    },
    /// Run the conformance suite on a backend.
    Check {
        /// A backend's NAME or the PATH of its library; `cpu` is built in.
        backend: String,
        /// A folder with a model the backend can load.
        #[arg(long)]
        model: PathBuf,
        /// An option of the backend, KEY=VALUE.
        #[arg(long = "backend-option", value_name = "KEY=VALUE")]
        options: Vec<String>,
    },
}

impl Backend {
    pub(crate) fn run(self) -> Result<()> {
        match self {
            Self::Info { backend } => info(&backend),
            Self::Check { backend, model, options } => {
                let report = tokenmill_conformance::run(&open(&backend)?, &model, &options.join("\n"));
                println!("{report}");
                if !report.passed() {
                    bail!("{backend} does not keep the contract");
                }
                Ok(())
            }
        }
    }
}

/// The built-in CPU backend, or a library by name or path.
pub(crate) fn open(name_or_path: &str) -> Result<Library> {
    if name_or_path == "cpu" {
        return Library::from_entry(tokenmill_cpu::tm_backend).context("the built-in cpu backend");
    }
    Ok(Library::open(&Library::find(name_or_path)?)?)
}

fn info(name_or_path: &str) -> Result<()> {
    if name_or_path == "cpu" {
        println!("built into this program");
    } else {
        let path = Library::find(name_or_path)?;
        let manifest = Manifest::read(&path)?;
        println!("library      {}", path.display());
        println!("name         {} {}", manifest.name, manifest.version);
        println!("description  {}", manifest.description);
        println!("manifest ABI {}.{}", manifest.major, manifest.minor);
    }
    let library = open(name_or_path)?;
    let (major, minor) = library.version();
    println!("speaks ABI   {major}.{minor}");
    match library.probe() {
        Ok(()) => println!("runs here    yes"),
        Err(error) => println!("runs here    no: {error}"),
    }
    Ok(())
}
