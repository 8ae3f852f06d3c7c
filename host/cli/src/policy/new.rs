//! `tokenmill policy new`: a project that builds on its own. The crates of ours that it needs are copied into it.

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Path in the project and content, as they are in this repository.
const VENDORED: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/vendored.rs"));
const SAMPLER: &str = include_str!("template/sampler.rs");
const SCHEDULER: &str = include_str!("template/scheduler.rs");
const README: &str = include_str!("template/README.md");
/// `wasm-component-ld` makes a component where the usual linker makes a core module.
const CARGO: &str = "[target.wasm32-unknown-unknown]\nlinker = \"wasm-component-ld\"\n\
                     rustflags = [\"-Ctarget-feature=+simd128\"]\n";

#[derive(Args)]
pub(crate) struct New {
    /// What the policy is called.
    name: String,
    #[arg(long)]
    kind: Template,
    /// Where the project's folder is made.
    #[arg(long, default_value = ".")]
    dir: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum Template {
    Sampler,
    Scheduler,
}

impl New {
    pub(crate) fn run(self) -> Result<()> {
        let name = &self.name;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_';
        if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
            bail!("a policy's name has up to 64 of a-z, 0-9, - and _");
        }
        let project = self.dir.join(name);
        if project.exists() {
            bail!("{} is there already", project.display());
        }
        for (path, text) in self.files() {
            write(&project.join(path), &text)?;
        }
        println!("{} is a policy that builds; its README.md says how", project.display());
        Ok(())
    }

    fn files(&self) -> Vec<(&'static str, String)> {
        let mut files: Vec<_> =
            VENDORED.iter().map(|(path, text)| (*path, self.adapted(path, text))).collect();
        let library = match self.kind {
            Template::Sampler => SAMPLER,
            Template::Scheduler => SCHEDULER,
        };
        files.push(("src/lib.rs", library.replace("NAME", &self.name)));
        files.push(("README.md", self.readme()));
        files.push((".cargo/config.toml", CARGO.to_owned()));
        files.push((".gitignore", "target\n".to_owned()));
        files
    }

    /// Manifests name neighbours by their places in the project.
    fn adapted(&self, path: &str, text: &str) -> String {
        match path {
            "Cargo.toml" => self.manifest(text),
            _ if path.ends_with("Cargo.toml") => {
                let text = text.split("[dev-dependencies]").next().unwrap_or(text);
                let text = text.replace("../../host/policy", "../policy");
                // Of another workspace than the rest.
                text.replace("thiserror.workspace = true", "thiserror = \"2\"")
            }
            _ => text.to_owned(),
        }
    }

    /// The manifest of the workspace in `plugins/`, for one package.
    fn manifest(&self, workspace: &str) -> String {
        let package = format!(
            "[package]\nname = \"policy-{}\"\nversion = \"0.1.0\"\nedition = \"2024\"\npublish = false\n\n\
             [lib]\ncrate-type = [\"cdylib\", \"rlib\"]\n\n\
             [dependencies]\nserde.workspace = true\ntokenmill-guest.workspace = true\n\
             tokenmill-plugin-common.workspace = true\ntokenmill-policy.workspace = true\n\n",
            self.name
        );
        let vendored = ["guest", "common", "policy"];
        let kept = workspace.lines().filter(|line| {
            let path = line.split("path = \"").nth(1).and_then(|rest| rest.split('"').next());
            !line.starts_with('#')
                && path.is_none_or(|path| vendored.contains(&path.trim_start_matches("../host/")))
        });
        let place = |line: &str| match line.starts_with("members") {
            true => "members = [\"vendor/*\"]\n".to_owned(),
            false => {
                line.replace("path = \"../host/", "path = \"").replace("path = \"", "path = \"vendor/") + "\n"
            }
        };
        package + &kept.map(place).collect::<String>()
    }

    fn readme(&self) -> String {
        let module = format!("policy_{}", self.name.replace('-', "_"));
        let flag = match self.kind {
            Template::Sampler => "--sampler NAME=FILE",
            Template::Scheduler => "--scheduler FILE",
        };
        README.replace("FLAG", flag).replace("NAME", &self.name).replace("MODULE", &module)
    }
}

fn write(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let written = fs::create_dir_all(folder).and_then(|()| fs::write(path, text));
    written.with_context(|| format!("cannot write {}", path.display()))
}
